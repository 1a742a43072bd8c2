"""Addresses: whatever prints one prints no password; the whole of it is given only where a connection is opened."""

import copy
import json
import pickle

import pytest
import yaml

from vqscale import errors, storage
from vqscale.address import Address
from vqscale.errors import AddressError, StorageError
from vqscale.masking import hide, masked, without_passwords
from vqscale.study.frozen import Frozen
from vqscale.study.spec import parse_study


class Held(Frozen):
    uri: Address


SECRETS = {
    "postgresql://u:CANARY@h:5432/db": "postgresql://u:***@h:5432/db",
    "postgresql+psycopg2://u:CAN@ARY@h/db": "postgresql+psycopg2://u:***@h/db",
    "postgresql://u:C/A:N#A?R@Y@h/db": "postgresql://u:***@h/db",
    "postgresql://u:CAN%40ARY%2F@h/db?sslmode=require": "postgresql://u:***@h/db?sslmode=require",
    "postgresql://h/db?user=x&password=CA@NA#RY&sslmode=off": "postgresql://h/db?user=x&password=***&sslmode=off",
    "postgresql:///db?host=/run&sslpassword=CANARY#x": "postgresql:///db?host=/run&sslpassword=***",
    "postgresql://u:CANARY&x;y=CANARY@h/db": "postgresql://u:***@h/db",
    "mysql://u%3ACANARY@h/db": "mysql://u%3A***@h/db",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3DPWD%3DCANARY": "mssql+pyodbc:///?odbc_connect=***",
    "sqlite+pysqlcipher://:CANARY@/runs.db": "sqlite+pysqlcipher://:***@/runs.db",
    "http://CANARY@h:5000": "http://***@h:5000",
    "https://u:CANARY@h/x?token=CANARY&page=1&access_key=CANARY": "https://u:***@h/x?token=***&page=1&access_key=***",
    "https://store/file?X-Amz-Signature=CANARY&X-Amz-Date=1": "https://store/file?X-Amz-Signature=***&X-Amz-Date=1",
    "s3://KEY:CAN/ARY+@bucket/x": "s3://KEY:***@bucket/x",
    "zip://*.csv::ftp://u:CANARY@h/x.zip": "zip://*.csv:***@h/x.zip",
    "user:CANARY@host:6379": "user:***@host:6379",
    "postgresql://u:a${NAME}CANARY@h/db": "postgresql://u:***@h/db",
}
OPEN = [
    *("sqlite:///runs/mlflow.db", "sqlite:////home/a:b@c/x.db", "http://127.0.0.1:5000/#/experiments/3/runs"),
    *("http://[::1]:5000/a", "postgresql://user@h/db", "s3://bucket/prefix", "runs/mlflow.db", "auto"),
    *("postgresql://u:${NAME}@h/db?sslkey=${KEY}", "${MLFLOW_TRACKING_URI}", "ray://head:10001", "databricks"),
]


@pytest.mark.parametrize(("whole", "shown"), SECRETS.items())
def test_address_with_a_secret_is_masked_in_every_form(whole: str, shown: str) -> None:
    address = Address(whole)
    assert masked(whole) == shown
    assert address.reveal({"NAME": "x"}) == whole.replace("${NAME}", "x")
    held = Held(uri=address)
    values = {"study": "s", "data": {"corpus": "c"}, "model": {}, "train": {}, "tracking": {"uri": whole}}
    printed = [
        *(str(address), repr(address), f"{address}", f"{address!r:>300}", "%s" % address, str([address])),  # noqa: UP031
        *(repr(held), held.model_dump_json(), json.dumps(held.model_dump(mode="json"))),
        *(yaml.safe_dump(held.model_dump(mode="json")), yaml.dump(address), str(pickle.dumps(address))),
        *(str(errors.TrackingError(f"tracking.uri: {whole}: no")), without_passwords(f"see '{whole}', and (x)")),
        *(hide(whole, f"FATAL: {whole}"), str(errors.WorkFailedError(f"failed at {whole}."))),
    ]
    if whole.startswith(("postgresql://", "http")):
        printed.append(repr(parse_study(values, source="s")))
    for text in printed:
        assert "CANARY" not in text
        assert "ARY" not in text.removesuffix("...")


@pytest.mark.parametrize("whole", OPEN)
def test_address_without_a_secret_is_shown_as_it_is(whole: str) -> None:
    assert str(Address(whole)) == whole
    assert not Address(whole).has_password


def test_address_is_whole_in_its_process_and_masked_in_copies_that_leave_it() -> None:
    address = Address("postgresql://u:CANARY@h/db")
    held = Held(uri=address)
    for kept in (copy.copy(address), copy.deepcopy(held).uri, held.model_copy(deep=True).uri, Address(address)):
        assert kept == address == "postgresql://u:CANARY@h/db"
    assert Held.model_validate(held.model_dump()).uri == address
    for left in (pickle.loads(pickle.dumps(address)), Held.model_validate_json(held.model_dump_json()).uri):
        assert left != address
        assert left.incomplete
        with pytest.raises(AddressError, match="only the masked form"):
            left.reveal()


def test_variables_of_an_address_are_encoded_only_where_a_secret_goes() -> None:
    address = Address("postgresql://${USER_NAME}:${PW}@${PLACE}/db?password=${PW}")
    known = {"USER_NAME": "me", "PW": "p@ss/ word%", "PLACE": "host:5432"}
    assert address.reveal(known) == "postgresql://me:p%40ss%2F%20word%25@host:5432/db?password=p%40ss%2F%20word%25"
    assert address.variables == ["USER_NAME", "PW", "PLACE", "PW"]
    with pytest.raises(AddressError, match="environment variable PW is not set"):
        address.reveal({"USER_NAME": "me", "PLACE": "h"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('password "p@ss" of', 'password "***" of'),
        ("host p%40ss@h", "host ***@h"),
        ("postgresql://u:p%40ss@h/db refused", "postgresql://u:***@h/db refused"),
        ("another: http://a:b@c", "another: http://a:***@c"),
    ],
)
def test_messages_of_drivers_are_shown_without_the_password(text: str, shown: str) -> None:
    assert Address("postgresql://u:p%40ss@h/db").hide(text) == shown


def test_short_password_is_hidden_as_a_word_only() -> None:
    assert Address("postgresql://u:in@h/db").hide("in the inner: 'in'") == "*** the inner: '***'"


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("s3://KEY:CAN/ARY@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("ftp://u:CANARY@host/x", "FSSPEC_FTP_PASSWORD"),
        ("simplecache::sftp://u:CANARY@host/x", "FSSPEC_SFTP_PASSWORD"),
    ],
)
def test_address_of_files_with_a_password_is_refused(uri: str, remedy: str) -> None:
    with pytest.raises(StorageError, match=remedy) as caught:
        storage.filesystem(uri)
    assert "ARY" not in str(caught.value).replace("SECRET", "")


@pytest.mark.parametrize("uri", ["http://h:80/a@b", "s3://bucket/a:b@c", "github://org:repo@main/x", "/tmp/a:b@c"])
def test_address_of_files_with_another_at_sign_is_no_login(uri: str) -> None:
    storage.check_address(uri)
