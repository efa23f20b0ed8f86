"""Turns a function into a verb of the command line: adds the connection's options and `-o`, opens the gateway."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeAlias

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import Document, OutputFormat, TableColumn, print_json, print_table
from flotilla_cli.target import PERSON, ConnectionOptions, resolve_target

if TYPE_CHECKING:
    from flotilla_cli.gateway import GatewayClient

P = ParamSpec("P")
CONNECTION = "Connection"

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The gateway. Default: FLOTILLA_URL, else the running local stack's, else http://127.0.0.1:8080.",
        rich_help_panel=CONNECTION,
        show_default=False,
    ),
]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="KEY",
        help="API key or JWT. Default: FLOTILLA_TOKEN; on the local stack one of its keys.",
        rich_help_panel=CONNECTION,
        show_default=False,
    ),
]
ActsAs: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help="On the local stack: act by this of its keys (alice, bob, admin).",
        rich_help_panel=CONNECTION,
        show_default=False,
    ),
]
OnBehalfOf: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--on-behalf-of",
        metavar="SUBJECT",
        help="With the key of a service that has this right: act for this person.",
        rich_help_panel=CONNECTION,
        show_default=False,
    ),
]
Output: TypeAlias = Annotated[
    OutputFormat, typer.Option("--output", "-o", metavar="table|json", help="For people, or for programs.")
]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")]


def new_verb_group(help_text: str) -> typer.Typer:
    """A group of verbs; without a verb it shows its help."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode="rich")


def examples_epilog(*lines: str) -> str:
    """The end of a verb's help."""
    return "\n".join(["[bold]Examples[/]", *(f"[cyan]{line}[/]" for line in lines)])


def docstring_as_help(function: Callable[..., object]) -> str:
    """A function's docstring as help: paragraphs without the line breaks of the source."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


class VerbCall:
    """One call of a verb: the gateway, which is connected to on first use, and how to print."""

    def __init__(
        self, connection: ConnectionOptions, acts_as: str, output: OutputFormat, open_until: ExitStack
    ) -> None:
        self._connection, self._acts_as, self._open_until = connection, acts_as, open_until
        self.output = output

    @functools.cached_property
    def gateway(self) -> "GatewayClient":
        """The gateway.

        Raises:
            Misuse: the address is not valid, or there are no credentials for it.
        """
        from flotilla_cli.gateway import GatewayClient

        return self._open_until.enter_context(GatewayClient(resolve_target(self._connection, self._acts_as)))

    @property
    def prints_json(self) -> bool:
        """Whether the answer is for a program."""
        return self.output is OutputFormat.JSON

    def show(self, document: object, for_people: Callable[[], None]) -> None:
        """The document as JSON, or what `for_people` prints."""
        if self.prints_json:
            print_json(document)
        else:
            for_people()

    def print_listing(self, document: Document, name: str, columns: Iterable[TableColumn], empty: str) -> None:
        """A listing as JSON or as a table; says when there is more."""
        self.show(document, lambda: _print_listing(document, name, columns, empty))


def _print_listing(document: Document, name: str, columns: Iterable[TableColumn], empty: str) -> None:
    from flotilla_cli.printing import print_notice

    print_table(document[name], columns, empty)
    if document.get("next_cursor"):
        print_notice(f"There are more than these {len(document[name])}: raise --limit.")


def verb(
    app: typer.Typer, name: str, *, acts_as: str = PERSON, epilog: str | None = None, **settings: Any
) -> Callable[[Callable[Concatenate[VerbCall, P], None]], Callable[..., None]]:
    """Register a function as a verb that talks to the gateway; it gets a `VerbCall` for the connection's options.

    `acts_as` is the local stack's key that is used when nothing else is asked for.
    """

    def register(function: Callable[Concatenate[VerbCall, P], None]) -> Callable[..., None]:
        command = _with_connection(function, acts_as)
        app.command(name, help=docstring_as_help(function), epilog=epilog, **settings)(command)
        return command

    return register


def _with_connection(function: Callable[..., None], acts_as: str) -> Callable[..., None]:
    @functools.wraps(function)
    def command(
        *,
        context: typer.Context,
        url: str | None,
        token: str | None,
        as_: str | None,
        on_behalf_of: str | None,
        output: OutputFormat,
        **arguments: Any,
    ) -> None:
        connection = ConnectionOptions(url, token, as_, on_behalf_of).over(root_connection_options(context))
        _check_texts(context, arguments)
        with ExitStack() as stack:
            function(VerbCall(connection, acts_as, output, stack), **arguments)

    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    vars(command)["__signature__"] = inspect.Signature([_CONTEXT, *_keyword_only(own), *_CONNECTION_PARAMETERS])
    return command


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
"""What the gateway takes for one, so that no id can be another address."""


def _check_texts(context: typer.Context, arguments: Mapping[str, object]) -> None:
    """A variable that was not set in a script: an empty id would ask for the listing."""
    for parameter in context.command.params:
        name = parameter.name or ""
        value = arguments.get(name)
        is_id = name == "session" or name.endswith("_id")
        if value == "-":
            continue  # where no id is wanted but what has none; the gateway refuses it elsewhere
        if not isinstance(value, str) or not (is_id or parameter.param_type_name == "argument"):
            continue
        if not value.strip():
            what = name.replace("_", " ")
            raise Misuse(f"the {what} is empty", f"{context.command_path} --help shows what belongs there")
        if is_id:
            check_id(value)


def check_id(value: str) -> str:
    """Return an id as it is.

    Raises:
        Misuse: it can't be one.
    """
    if not _ID.fullmatch(value):
        raise Misuse(f"{value!r} is not a valid id", "an id is letters, digits and . _ : -, at most 128 of them")
    return value


def _keyword_only(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]


def _option(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
_CONNECTION_PARAMETERS = (
    _option("output", Output, OutputFormat.TABLE),
    _option("url", Url, None),
    _option("token", Token, None),
    _option("as_", ActsAs, None),
    _option("on_behalf_of", OnBehalfOf, None),
)


def root_connection_options(context: typer.Context) -> ConnectionOptions:
    """What was said before the verb: `flotilla --url URL ask …`."""
    found = context.find_root().obj
    return found if isinstance(found, ConnectionOptions) else ConnectionOptions()
