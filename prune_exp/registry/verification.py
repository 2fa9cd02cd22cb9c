"""A registered model's files checked before they are loaded, and handed over when they hold."""

import shutil
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

from prune_exp.machine.cache import folder_sha256
from prune_exp.machine.display import last_words
from prune_exp.machine.staging import stage_beside
from prune_exp.registry.candidates import CHAMPION, Candidate, at_version, only_model, version_at
from prune_exp.registry.evidence import Evidence
from prune_exp.registry.gates import Verdict, judge_candidate, show_verdicts
from prune_exp.registry.signing import SIGNATURE
from prune_exp.settings.command_schemas import LimitSettings, VerifySettings
from prune_exp.settings.errors import SettingError
from prune_exp.tracking import tags
from prune_exp.tracking.store import use_store


def verify_model(settings: VerifySettings) -> int:
    """Says whether a version's files are those stored, signed and judged; returns the exit code.

    With `output` the very files that were checked are put there, to be loaded from there.

    Raises:
        SettingError: there is no such version, or `output` is there already.
    """
    output = None if settings.output is None else Path(settings.output).expanduser().absolute()
    if output is not None and output.exists():
        raise SettingError(f"output={output} exists; give a folder that does not")
    if settings.public_key is not None and not Path(settings.public_key).is_file():
        raise SettingError(
            f"public_key={settings.public_key} is not a file; give the PEM file of the public key"
        )
    use_store(settings.tracking)
    name = settings.tracking.registered_model or only_model()
    given = settings.version
    version = version_at(name, CHAMPION) if given is None else str(given)
    if version is None:
        raise SettingError(f"{name} has no champion; say which version with version=NUMBER")
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        candidate = at_version(name, version, Path(scratch))
        verdicts = check_files(candidate, version, settings.public_key)
        print(f"{name}, version {version}:")
        show_verdicts(verdicts)
        passed = all(one.passed for one in verdicts)
        if passed and output is not None:
            _hand_over(candidate, output)
    return 0 if passed else 1


def check_files(candidate: Candidate, version: str | None, public_key: str | None) -> list[Verdict]:
    """Whether a model's files are those stored, signed (with a key) and, of a version, judged."""
    limits = LimitSettings(public_key=public_key)
    case = Evidence(candidate=candidate, champion=None, limits=limits, cache_dir=Path())
    asked = ["integrity", *([] if public_key is None else ["signature"])]
    judged = [] if version is None else _check_judged(candidate, version)
    return [*judge_candidate(case, asked), *judged]


def _check_judged(candidate: Candidate, version: str) -> list[Verdict]:
    """Whether a promoted version still has the files that the gates judged."""
    recorded = MlflowClient().get_model_version(candidate.name, version).tags
    judged = recorded.get(tags.JUDGED_SHA256)
    if judged is None:
        return []
    same = folder_sha256(candidate.root) == judged
    sentence = f"the files are {'' if same else 'not '}those that the gates judged"
    return [Verdict(name="judged", passed=same, sentence=sentence)]


def _hand_over(candidate: Candidate, output: Path) -> None:
    try:
        with stage_beside(output) as stage:
            made = shutil.copytree(candidate.root, stage / output.name)
            if candidate.signature.is_file():
                shutil.copy(candidate.signature, made / SIGNATURE)
            made.rename(output)
    except OSError as error:  # shutil's own has a list in place of words
        why = error.strerror or last_words(error)
        raise SettingError(f"output={output} cannot be written ({why}); give another one") from None
    print(f"{output} holds them; load them with mlflow.pyfunc.load_model({str(output)!r})")
