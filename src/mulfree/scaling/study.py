"""Study of Optuna in a file that several processes or machines share."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError, quoted
from mulfree.files import check_regular, check_writable, expanded, locked

if TYPE_CHECKING:
    from optuna import Study

NAME = "mulfree-scale"
_SETTINGS = "mulfree_settings"
_SQLITE = "sqlite:///"
# Another process that creates the study counts every ratio of the grid meanwhile.
_PATIENCE_SECONDS = 3600.0


@contextlib.contextmanager
def opened(
    storage: str, settings: Mapping[str, Any], sampler: str, seed: int
) -> Iterator[tuple[Study, bool]]:
    """Open a study, or create it; while the context lasts no other process does.

    Args:
        storage: `sqlite:///FILE`, or the path of a journal file.
        settings: Settings of the search, as JSON values; a study has one set of them.
        sampler: "grid" for a queue of candidates, or "tpe".
        seed: Seed of the sampler.

    Yields:
        The study, and whether it is new.

    Raises:
        BackendUnavailableError: Optuna is not installed.
        ConfigError: The storage is another one, or the study belongs to another search.
        ArtifactError: The file is damaged or of another format.
        OSError: The file cannot be written.
    """
    try:
        import optuna
    except ImportError as error:
        raise BackendUnavailableError(
            "scale search: Optuna must be installed: pip install 'mulfree[search]'"
        ) from error
    path = storage_file(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        check_regular(path)
    check_writable(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
    if sampler == "tpe":
        chosen = optuna.samplers.TPESampler(seed=seed)
    with _alone(path.parent):
        try:
            backend = _backend(storage, path)
            names = [summary.study_name for summary in optuna.get_all_study_summaries(backend)]
            new = NAME not in names
            study = optuna.create_study(
                storage=backend,
                sampler=chosen,
                study_name=NAME,
                direction="maximize",
                load_if_exists=True,
            )
            there = study.user_attrs.get(_SETTINGS)
        # A foreign file may raise anything.
        except Exception as error:
            raise ArtifactError(
                f"scale search: `--storage` must be a study of Optuna, got {path}: "
                f"{type(error).__name__}"
            ) from error
        if new:
            study.set_user_attr(_SETTINGS, dict(settings))
        else:
            _check_same(there, settings, path)
        yield study, new


def storage_file(storage: str) -> Path:
    """File of a storage.

    Raises:
        ConfigError: It is neither a journal file nor an SQLite file.
    """
    name = storage.removeprefix(_SQLITE)
    try:
        path = Path(expanded(name))
    except ValueError:
        path = Path()
    if not path.name or "://" in name or (name != storage and set("?#%") & set(name)):
        raise ConfigError(
            "scale search: `--storage` must be sqlite:///FILE or the path of a journal file, "
            f"got {quoted(storage)}"
        )
    return path


def _backend(storage: str, path: Path) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if storage.startswith(_SQLITE):
        return RDBStorage(f"{_SQLITE}{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a directory, waiting for other processes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.ExitStack() as kept:
        while True:
            try:
                kept.enter_context(locked(directory))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _check_same(there: object, settings: Mapping[str, Any], path: Path) -> None:
    own = there if isinstance(there, dict) else {}
    for name in sorted(own.keys() | settings.keys()):
        # A storage holds lists for tuples.
        if json.dumps(own.get(name)) != json.dumps(settings.get(name)):
            raise ConfigError(
                f"scale search: `{name}` must be {quoted(own.get(name))} as in the study in "
                f"{path}, got {quoted(settings.get(name))}"
            )
