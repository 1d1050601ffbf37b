"""Commands that act on things by their ids, or on all of them: which ones are meant, and what came of each."""

from collections.abc import Callable, Sequence

from cli.errors import ExitCode, UserError


def chosen(things: str, ids: list[str] | None, every: bool, all_ids: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Return the ids that a command names, or all.

    Args:
        things: what they are, in the plural.
        ids: those named.
        every: whether `--all` was given.
        all_ids: gives all ids.

    Raises:
        UserError: neither or both were given.
    """
    if bool(ids) == every:
        raise UserError(f"name the {things}, or give --all", ExitCode.USAGE)
    return all_ids() if every else list(dict.fromkeys(ids or []))


def act_on_each(ids: Sequence[str], act: Callable[[str], str | None]) -> None:
    """Act on each, and print the ids of those that it worked for; `act` returns why it did not.

    Raises:
        UserError: it did not work for some.
    """
    refused = []
    for name in ids:
        if reason := act(name):
            refused.append(f"{name}: {reason}")
        else:
            print(name, flush=True)
    if refused:
        raise UserError(f"{len(refused)} of {len(ids)} left as they are: {'; '.join(refused)}")
