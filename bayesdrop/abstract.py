"""Abstract modules without a metaclass of their own."""

from __future__ import annotations

from typing import Any


class Abstract:
    """Base of classes with abstract methods, as ``abc.ABC``, that leaves their metaclass alone.

    Pyro makes classes such as ``PyroModule[Layer]`` with a metaclass of its own, which two of
    them cannot share a class with. Python refuses to make an object of a class by what stands in
    ``__abstractmethods__``, whoever has put it there.

    Example:
        >>> from abc import abstractmethod
        >>> class Shape(Abstract):
        ...     @abstractmethod
        ...     def area(self): ...
        >>> Shape()
        Traceback (most recent call last):
            ...
        TypeError: Can't instantiate abstract class Shape with abstract method area
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__abstractmethods__ = frozenset(  # type: ignore[attr-defined]
            name
            for name in dir(cls)
            if getattr(getattr(cls, name, None), "__isabstractmethod__", False)
        )
