"""Commands in this process, as users type them."""

from typer.testing import CliRunner

from bayesdrop.cli import app


def invoke(*arguments, code=0, **environment):
    """Run a command, check its exit code, and return what it said."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words, env=environment, prog_name="bayesdrop")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result
