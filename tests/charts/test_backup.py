"""The CronJob of backups: off by default, without a right that a backup does not need."""

from tests.charts.conftest import Helm, Render, of_kind, template

PRODUCTION = ("flotilla/values-production.yaml",)
ON = (
    "backup.enabled=true",
    "backup.claim=backups",
    "backup.keysSecret=backup-keys",
    "backup.passphraseSecret=backup-passphrase",
    "backup.dependencies.kafka.existingSecret=flotilla-kafka-backup",
)


def test_there_is_none_by_default(render: Render) -> None:
    assert not of_kind(render("flotilla", files=PRODUCTION), "CronJob")


def test_it_reads_as_its_own_users_and_changes_nothing(render: Render) -> None:
    manifests = render("flotilla", *ON, files=PRODUCTION)
    (job,) = of_kind(manifests, "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    secrets = {
        each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "secretKeyRef" in str(each)
    }
    assert secrets["FLOTILLA_POSTGRES_DSN"]["key"] == "flotilla_backup"
    assert secrets["FLOTILLA_KAFKA_PASSWORD"]["name"] == "flotilla-kafka-backup"
    assert "FLOTILLA_REDIS_URL" not in secrets
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    files = {each["name"]: each.get("value") for each in container["env"]}
    assert files["FLOTILLA_BACKUP_PASSPHRASE_FILE"] == "/etc/flotilla/backup-passphrase/passphrase"
    assert files["FLOTILLA_BACKUP_KEYS"].split(",") == [
        "/etc/flotilla/backup-keys/signing-key.pem",
        "/etc/flotilla/backup-keys/ticket-key.pem",
    ]
    (policy,) = [each for each in of_kind(manifests, "NetworkPolicy") if each["metadata"]["name"].endswith("-backup")]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]


def test_it_says_what_is_missing(helm: Helm) -> None:
    for value, missing in (("backup.claim=backups", "keysSecret"), ("backup.keysSecret=keys", "claim")):
        done = template(helm, "flotilla", "backup.enabled=true", value, files=PRODUCTION)
        assert done.returncode != 0
        assert f"backup.{missing} is empty" in done.stderr
