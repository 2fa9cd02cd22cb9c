"""Only the holder of the key can make a signature that holds, and only of these very files."""

import json
from pathlib import Path

import pytest

from prune_exp.registry.signing import PASSWORD, check_signing_key, describe_fault, sign_folder
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from support.cli import command, small_trial
from support.keys import write_keys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "deep" / "weights").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def signature(model: Path, tmp_path: Path) -> Path:
    sign_folder(model, str(write_keys(tmp_path)), tmp_path / "model.sig")
    return tmp_path / "model.sig"


def test_signed_files_hold_wherever_they_lie(model: Path, signature: Path, tmp_path: Path) -> None:
    public = str(tmp_path / "key.pub")
    assert describe_fault(model, signature, public) is None
    assert describe_fault(model.rename(tmp_path / "elsewhere"), signature, public) is None


@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
def test_other_files_do_not_hold(model: Path, signature: Path, tmp_path: Path, change: str) -> None:
    file = model / "deep" / "weights"
    if change == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    elif change == "added":
        (model / "more.json").write_text("{}", encoding="utf-8")
    elif change == "removed":
        file.unlink()
    else:
        file.rename(model / "weights")
    assert describe_fault(model, signature, str(tmp_path / "key.pub")) == (
        "its files are not those that were signed"
    )


def test_another_key_does_not_hold(model: Path, signature: Path, tmp_path: Path) -> None:
    write_keys(tmp_path, "other")
    assert (
        describe_fault(model, signature, str(tmp_path / "other.pub"))
        == "it was signed with another key"
    )
    bundle = json.loads(signature.read_text(encoding="utf-8"))
    sign_folder(model, str(tmp_path / "other.pem"), tmp_path / "other.sig")
    other = json.loads((tmp_path / "other.sig").read_text(encoding="utf-8"))
    forged = other | {"verificationMaterial": bundle["verificationMaterial"]}
    signature.write_text(json.dumps(forged), encoding="utf-8")
    found = describe_fault(model, signature, str(tmp_path / "key.pub"))
    assert found is not None
    assert "no valid one" in found


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0", '{"dsseEnvelope": {"payload": "e30="}}'])
def test_a_hostile_signature_is_a_refusal_and_no_crash(
    model: Path, signature: Path, tmp_path: Path, text: str
) -> None:
    signature.write_text(text, encoding="utf-8")
    assert "no valid one" in str(describe_fault(model, signature, str(tmp_path / "key.pub")))
    signature.unlink()
    assert describe_fault(model, signature, str(tmp_path / "key.pub")) == "it is not signed"


def test_an_encrypted_key_needs_its_password(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = str(write_keys(tmp_path, password="hush"))
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(SettingError, match=PASSWORD):
        check_signing_key(TrackingSettings(signing_key=private))
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(SettingError, match=r"tracking\.signing_key"):
        check_signing_key(TrackingSettings(signing_key=private))
    monkeypatch.setenv(PASSWORD, "hush")
    sign_folder(model, private, tmp_path / "model.sig")
    assert describe_fault(model, tmp_path / "model.sig", str(tmp_path / "key.pub")) is None


def test_keys_that_cannot_sign_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    private = write_keys(tmp_path, "edwards", key=ed25519.Ed25519PrivateKey.generate())
    for given in (private, model / "config.json", tmp_path / "none", tmp_path / "edwards.pub"):
        with pytest.raises(SettingError, match="openssl ecparam") as refused:
            check_signing_key(TrackingSettings(signing_key=str(given)))
        assert str(given) in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(SettingError, match=r"limits\.public_key"):
        describe_fault(model, tmp_path / "model.sig", str(private))


def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    args = small_trial(tiny_folder, text_file, tmp_path / "cache")
    done = command("-m", *args, "sparsity=0.2", "tracking.signing_key=none.pem", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("prune_exp: error: tracking.signing_key=none.pem cannot be read")
    assert not (tmp_path / "mlruns").exists()
