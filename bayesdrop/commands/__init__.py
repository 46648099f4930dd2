"""The commands of ``bayesdrop``, one a file; what is heavy is imported where it is used."""
