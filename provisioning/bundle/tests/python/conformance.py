"""Drives `cairn-tuf` against repositories made with python-tuf's metadata API.

The cases carry the names of those of theupdateframework/tuf-conformance that ask the same; that suite is on no package
registry, so a fresh machine cannot have it. Where it sets a clock, `attacks.rs` does so for the library instead.

Argument: the client. One line for each case; exit status 1 if any failed.
"""

import copy
import json
import subprocess
import sys
import tempfile
import threading
import traceback
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

CLIENT = sys.argv[1]
TOP = ["root", "timestamp", "snapshot", "targets"]
NOW = datetime.now(timezone.utc).replace(microsecond=0)
DAY = timedelta(days=1)
# Made once: an RSA key takes a while.
POOL = [CryptoSigner.generate_ed25519() for _ in range(16)]
RSA = CryptoSigner.generate_rsa()
ECDSA = CryptoSigner.generate_ecdsa()
CASES = []


def case(*params, name=None):
    """Registers a case; with params, one case for each."""

    def register(function):
        base = name or function.__name__
        if params:
            for ident, *args in params:
                CASES.append((f"{base}[{ident}]", function, args))
        else:
            CASES.append((base, function, []))
        return function

    return register


class Repo:
    """A repository whose every file and signature a case can bend."""

    def __init__(self):
        expires = NOW + 30 * DAY
        self.md = {
            "root": Metadata(Root(expires=expires)),
            "timestamp": Metadata(Timestamp(expires=expires)),
            "snapshot": Metadata(Snapshot(expires=expires)),
            "targets": Metadata(Targets(expires=expires)),
        }
        self.pool = [copy.copy(signer) for signer in POOL]
        self.signers = {}
        self.hashes = False
        self.published = {}
        self.artifacts = {}
        self.requests = []
        self.target_requests = []
        for role in TOP:
            self.add_key(role)
        self.publish("targets", "snapshot", "timestamp", "root")

    def signed(self, role):
        return self.md[role].signed

    def new_signer(self):
        return self.pool.pop()

    def add_key(self, role, signer=None, delegator="root"):
        signer = signer or self.new_signer()
        self.signed(delegator).add_key(signer.public_key, role)
        self.signers.setdefault(role, []).append(signer)
        return signer

    def set_keys(self, role, keys, threshold, sigs, signers):
        delegation = self.signed("root").roles[role]
        delegation.keyids.clear()
        delegation.threshold = threshold
        for n in keys:
            self.signed("root").add_key(signers[n].public_key, role)
        self.signers[role] = [signers[n] for n in sigs]

    def rotate(self, role):
        self.signed("root").roles[role].keyids.clear()
        self.signers[role] = []
        self.add_key(role)

    def publish(self, *roles):
        for role in roles:
            md = self.md[role]
            if role in self.published:
                md.signed.version += 1
            md.signatures.clear()
            for signer in self.signers[role]:
                md.sign(signer, append=True)
            data = md.to_bytes(JSONSerializer())
            self.published.setdefault(role, []).append(data)
            meta = MetaFile(md.signed.version)
            if self.hashes:
                meta = MetaFile.from_data(md.signed.version, data, ["sha256"])
            if role == "snapshot":
                self.signed("timestamp").snapshot_meta = meta
            elif role not in TOP or role == "targets":
                self.signed("snapshot").meta[f"{role}.json"] = meta

    def all(self):
        self.publish("targets", "snapshot", "timestamp")

    def restart(self, role):
        """As if the role had never been published."""
        del self.published[role]
        self.signed(role).version = 1

    def delegate(self, delegator, name, paths=("*",), terminating=False, new=None):
        targets = self.signed(delegator)
        targets.delegations = targets.delegations or Delegations({}, roles={})
        targets.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, list(paths))
        signer = self.add_key(name, delegator=delegator)
        self.md.setdefault(name, new or Metadata(Targets(expires=NOW + 30 * DAY)))
        return signer

    def artifact(self, role, path, data, hashes=("sha256",)):
        target = TargetFile.from_data(path, data, list(hashes))
        self.signed(role).targets[path] = target
        self.artifacts[path] = data
        return target

    def fetch(self, path):
        area, _, rest = path.partition("/")
        if area == "targets":
            folder, slash, name = rest.rpartition("/")
            name = name.partition(".")[2]
            self.target_requests.append(folder + slash + name)
            return self.artifacts.get(unquote(folder + slash + name))
        name = rest.removesuffix(".json")
        version = None
        if name != "timestamp":
            version, _, name = name.partition(".")
            version = int(version)
        self.requests.append((name, version))
        files = self.published.get(unquote(name), [])
        if version is None:
            return files[-1] if files else None
        return files[version - 1] if 0 < version <= len(files) else None


class Handler(BaseHTTPRequestHandler):
    repo = None

    def do_GET(self):
        data = Handler.repo.fetch(self.path.lstrip("/"))
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Client:
    def __init__(self, repo, port, init=True):
        Handler.repo = repo
        self.repo = repo
        self.url = f"http://127.0.0.1:{port}"
        self.dir = tempfile.TemporaryDirectory()
        self.metadata = Path(self.dir.name) / "metadata"
        self.targets = Path(self.dir.name) / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.error = ""
        if init:
            assert self.init(repo.published["root"][0])

    def run(self, *args):
        done = subprocess.run([CLIENT, "--metadata-dir", str(self.metadata), *args], capture_output=True, text=True)
        assert done.returncode in (0, 1), done
        assert done.returncode == 0 or done.stderr.count("\n") == 1, f"one line: {done.stderr!r}"
        self.error = done.stderr
        return done.returncode == 0

    def init(self, root):
        path = Path(self.dir.name) / "initial.json"
        path.write_bytes(root)
        return self.run("init", str(path))

    def refresh(self):
        return self.run("--metadata-url", f"{self.url}/metadata/", "refresh")

    def download(self, *names):
        args = ["--metadata-url", f"{self.url}/metadata/", "--target-base-url", f"{self.url}/targets/"]
        args += ["--target-dir", str(self.targets)]
        for name in names:
            args += ["--target-name", name]
        return self.run(*args, "download")

    def got(self):
        files = sorted((p for p in self.targets.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
        return [p.read_bytes() for p in files]

    def version(self, role):
        path = self.metadata / f"{role}.json"
        return json.loads(path.read_bytes())["signed"]["version"] if path.exists() else None

    def trusted(self):
        return {p.name.removesuffix(".json"): self.version(p.name.removesuffix(".json")) for p in self.metadata.glob("*.json")}

    def has(self, role):
        return (self.metadata / f"{role}.json").read_bytes() == self.repo.published[role][-1]


# Basics


@case()
def test_basic_refresh_requests(repo, client):
    assert client.refresh()
    assert repo.requests == [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)], repo.requests


@case()
def test_basic_refresh_trusted_data(repo, client):
    assert client.refresh()
    assert all(client.has(role) for role in TOP)


@case()
def test_implicit_refresh(repo, client):
    assert not client.download("none")
    assert all(client.has(role) for role in TOP)


@case()
def test_invalid_initial_root(repo, client):
    root = json.loads(repo.published["root"][0])
    del root["signed"]["version"]
    client.init(json.dumps(root).encode())
    assert not client.refresh() and repo.requests == []


@case()
def test_unsigned_initial_root(repo, client):
    root = json.loads(repo.published["root"][0])
    root["signatures"][0]["sig"] = "00" * 64
    client.init(json.dumps(root).encode())
    assert not client.refresh() and repo.requests == []


@case(
    ("root", "root", {"root": 1}),
    ("timestamp", "timestamp", {"root": 2}),
    ("snapshot", "snapshot", {"root": 2, "timestamp": 2}),
    ("targets", "targets", {"root": 2, "snapshot": 2, "timestamp": 2}),
)
def test_unsigned_metadata(repo, client, role, trusted):
    repo.signers[role].pop()
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert not client.refresh() and "forged" in client.error
    assert client.trusted() == trusted


@case(
    ("root", "root", {"root": 1}),
    ("snapshot", "snapshot", {"root": 2, "timestamp": 2}),
    ("targets", "targets", {"root": 2, "snapshot": 2, "timestamp": 2}),
)
def test_url_and_metadata_version_mismatch(repo, client, role, trusted):
    repo.signed(role).version += 1
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert not client.refresh()
    assert client.trusted() == trusted


@case()
def test_timestamp_content_changes(repo, client):
    assert client.refresh()
    repo.restart("timestamp")
    repo.signed("timestamp").snapshot_meta.version = 100
    repo.publish("timestamp")
    assert client.refresh() and repo.requests[-1] == ("timestamp", None)
    stored = Metadata.from_file(str(client.metadata / "timestamp.json"))
    assert stored.signed.snapshot_meta.version == 1


@case()
def test_basic_metadata_hash_support(repo, client):
    repo.hashes = True
    repo.all()
    assert client.refresh()


@case()
def test_targets_hash_mismatch(repo, client):
    repo.hashes = True
    repo.all()
    assert client.refresh()
    repo.publish("targets")
    repo.signed("snapshot").meta["targets.json"].hashes["sha256"] = "0" * 64
    repo.publish("snapshot", "timestamp")
    assert not client.refresh() and "mix-and-match" in client.error
    assert (client.version("snapshot"), client.version("targets")) == (3, 2)


@case()
def test_snapshot_hash_mismatch(repo, client):
    repo.hashes = True
    repo.all()
    assert client.refresh()
    repo.publish("snapshot")
    repo.signed("timestamp").snapshot_meta.hashes["sha256"] = "0" * 64
    repo.publish("timestamp")
    assert not client.refresh()
    assert (client.version("timestamp"), client.version("snapshot")) == (3, 2)


@case()
def test_metadata_bytes_match(repo, client):
    repo.published["timestamp"][-1] += b" "
    assert client.refresh() and client.has("timestamp")


def with_field(signer, field, value):
    key = signer.public_key
    key = type(key)("", key.keytype, key.scheme, key.keyval, {field: value})
    key.keyid = sha256(encode_canonical(key.to_dict()).encode()).hexdigest()
    return CryptoSigner(signer._private_key, key)


@case()
def test_custom_fields(repo, client):
    assert client.refresh()
    repo.signed("root").unrecognized_fields["custom-field"] = "value"
    repo.add_key("root", with_field(repo.new_signer(), "extra", {"a": 1, "b": 2}))
    repo.signed("root").roles["root"].unrecognized_fields["another"] = "value"
    repo.publish("root")
    assert client.refresh() and client.version("root") == 2


@case()
def test_deprecated_keyid_hash_algorithms(repo, client):
    repo.signed("root").roles["snapshot"].keyids.clear()
    repo.signers["snapshot"] = []
    repo.add_key("snapshot", with_field(repo.new_signer(), "keyid_hash_algorithms", "md5"))
    repo.publish("root", "snapshot", "timestamp")
    assert client.refresh() and client.version("snapshot") == 2


@case()
def test_snapshot_404(repo, client):
    assert client.refresh()
    repo.signed("timestamp").snapshot_meta.version += 1
    repo.publish("timestamp")
    assert not client.refresh() and repo.requests[-1] == ("snapshot", 2)
    assert client.trusted() == {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 2}


@case()
def test_targets_404(repo, client):
    assert client.refresh()
    repo.signed("snapshot").meta["targets.json"].version += 1
    repo.publish("snapshot", "timestamp")
    assert not client.refresh() and repo.requests[-1] == ("targets", 2)
    assert client.trusted() == {"root": 1, "snapshot": 2, "targets": 1, "timestamp": 2}


@case()
def test_timestamp_404(repo, client):
    assert client.refresh()
    del repo.published["timestamp"]
    assert not client.refresh() and repo.requests[-1] == ("timestamp", None)


@case()
def test_incorrect_metadata_type(repo, client):
    repo.add_key("snapshot", repo.signers["timestamp"][0])
    repo.signed("snapshot").meta = {"snapshot.json": MetaFile(1)}
    repo.publish("root", "snapshot")
    repo.published["timestamp"].append(repo.published["snapshot"].pop())
    assert not client.refresh() and client.trusted() == {"root": 2}


# Expiry


@case()
def test_root_expired(repo, client):
    assert client.refresh()
    repo.publish("root")
    assert client.refresh()
    repo.signed("root").expires = NOW - DAY
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert not client.refresh() and "expired" in client.error
    assert (client.version("root"), client.version("timestamp"), client.version("snapshot")) == (3, 1, 1)


@case(
    ("timestamp", "timestamp", {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}),
    ("snapshot", "snapshot", {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}),
    ("targets", "targets", {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}),
    name="test_expired",
)
def test_expired(repo, client, role, trusted):
    assert client.refresh()
    repo.signed(role).expires = NOW - 5 * DAY
    repo.all()
    assert not client.refresh() and "expired" in client.error
    assert client.trusted() == trusted


@case()
def test_expired_local_root(repo, client):
    # The first root ended long ago; the second has not.
    repo.restart("root")
    repo.signed("root").expires = NOW - DAY
    repo.publish("root")
    first = repo.published["root"][0]
    assert client.init(first)
    repo.signed("root").expires = NOW + DAY
    repo.publish("root")
    assert client.refresh() and client.version("root") == 2


@case()
def test_expired_local_timestamp(repo, client):
    assert client.refresh()
    # What is stored has ended: written as an older client would have left it.
    repo.restart("timestamp")
    repo.signed("timestamp").expires = NOW - DAY
    repo.publish("timestamp")
    (client.metadata / "timestamp.json").write_bytes(repo.published["timestamp"][-1])
    assert not client.refresh() and "frozen" in client.error
    repo.signed("timestamp").expires = NOW + DAY
    repo.all()
    assert client.refresh()
    assert client.trusted() == {"root": 1, "snapshot": 2, "targets": 2, "timestamp": 2}


# Keys


@case()
def test_snapshot_does_not_meet_threshold(repo, client):
    repo.signed("root").roles["snapshot"].threshold = 3
    repo.add_key("snapshot")
    repo.add_key("snapshot")
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh()
    repo.signers["snapshot"].pop()
    repo.all()
    assert not client.refresh() and client.version("snapshot") != 3


@case()
def test_snapshot_has_too_few_keys(repo, client):
    for _ in range(4):
        repo.add_key("snapshot")
    root = json.loads(repo.published["root"][0])
    repo.signed("root").roles["snapshot"].threshold = 6
    repo.publish("root", "snapshot", "timestamp")
    assert root and not client.refresh()
    assert client.version("root") == 2 and client.version("snapshot") != 2


@case()
def test_duplicate_keys(repo, client):
    signer = repo.add_key("snapshot")
    repo.signed("root").roles["snapshot"].keyids.extend([signer.public_key.keyid] * 8)
    repo.signed("root").roles["snapshot"].threshold = 6
    repo.publish("root", "snapshot", "timestamp")
    snapshot = json.loads(repo.published["snapshot"].pop())
    own = next(s for s in snapshot["signatures"] if s["keyid"] == signer.public_key.keyid)
    snapshot["signatures"].extend([own] * 8)
    repo.published["snapshot"].append(json.dumps(snapshot).encode())
    assert not client.refresh() and client.version("snapshot") is None


@case()
def test_duplicate_sig_keyids(repo, client):
    snapshot = json.loads(repo.published["snapshot"].pop())
    snapshot["signatures"].append(snapshot["signatures"][0])
    repo.published["snapshot"].append(json.dumps(snapshot).encode())
    assert not client.refresh() and client.version("snapshot") is None


@case(
    ("rsa/rsassa-pss-sha256", RSA, 384),
    ("ecdsa/ecdsa-sha2-nistp256", ECDSA, 72),
    ("ed25519/ed25519", POOL[0], 64),
)
def test_keytype_and_scheme(repo, client, signer, length):
    repo.add_key("root", signer)
    repo.signed("root").roles["root"].threshold += 1
    repo.publish("root")
    assert client.refresh() and client.version("root") == 2
    repo.publish("root")
    root = Metadata.from_bytes(repo.published["root"].pop())
    right = bytes.fromhex(root.signatures[signer.public_key.keyid].signature)
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    root.signatures[signer.public_key.keyid].signature = wrong.hex()
    repo.published["root"].append(root.to_bytes())
    assert not client.refresh() and client.version("root") == 2


@case()
def test_invalid_sig_in_valid_metadata(repo, client):
    first = repo.signers["timestamp"][0].public_key.keyid
    repo.add_key("timestamp")
    repo.publish("root", "timestamp")
    for wrong in ("00" * 64, ""):
        repo.publish("timestamp")
        md = Metadata.from_bytes(repo.published["timestamp"].pop())
        md.signatures[first].signature = wrong
        repo.published["timestamp"].append(md.to_bytes())
        assert client.refresh(), client.error


# Targets


@case()
def test_client_downloads_expected_file(repo, client):
    repo.artifact("targets", "file.txt", b"contents")
    repo.all()
    assert client.refresh() and client.got() == []
    assert client.download("file.txt") and client.got() == [b"contents"]


@case()
def test_client_downloads_expected_file_in_sub_dir(repo, client):
    repo.artifact("targets", "path/to/a/file.txt", b"contents")
    repo.all()
    assert client.download("path/to/a/file.txt") and client.got() == [b"contents"]


@case()
def test_repository_substitutes_target_file(repo, client):
    repo.artifact("targets", "one", b"one")
    repo.artifact("targets", "two", b"two")
    repo.all()
    assert client.download("one")
    repo.artifacts["one"] = repo.artifacts["two"] = b"evil"
    client.download("one")
    assert client.got() == [b"one"]
    assert not client.download("two") and client.got() == [b"one"]
    assert "wrong target" in client.error


@case()
def test_multiple_changes_to_target(repo, client):
    repo.artifact("targets", "file", b"0")
    repo.all()
    assert client.download("file")
    for n in range(1, 4):
        repo.artifact("targets", "file", b"%d" % n)
        repo.all()
        assert client.download("file") and client.got() == [b"%d" % n]
        repo.artifacts["file"] = b"evil"
        repo.all()
        client.download("file")
        assert client.got() == [b"%d" % n]


@case(("sha256", ["sha256"]), ("sha512", ["sha512"]), ("both", ["sha256", "sha512"]))
def test_download_with_hash_algorithms(repo, client, hashes):
    repo.artifact("targets", "file", b"contents", hashes)
    repo.all()
    assert client.download("file") and client.got() == [b"contents"] and len(repo.target_requests) == 1


@case()
def test_download_with_unknown_hash_algorithm(repo, client):
    target = repo.artifact("targets", "file", b"contents", ["sha512"])
    target.hashes = {"unknown-hash": target.hashes["sha512"]}
    repo.all()
    assert not client.download("file") and client.got() == []


@case()
def test_artifact_cache(repo, client):
    repo.artifact("targets", "file", b"contents")
    repo.all()
    assert client.download("file") and client.download("file") and len(repo.target_requests) == 1


@case(("?", "?"), ("#", "#"), ("/delegatedrole", "/delegatedrole"), ("../delegatedrole", "../delegatedrole"))
def test_unusual_role_name(repo, client, role):
    repo.delegate("targets", role)
    repo.publish(role, "targets", "snapshot", "timestamp")
    assert not client.download("none")
    assert (quote(role, safe=""), 1) in repo.requests
    assert len(client.trusted()) == 5


# Rollback


@case()
def test_new_timestamp_version_rollback(repo, client):
    repo.publish("timestamp")
    assert client.refresh()
    repo.restart("timestamp")
    repo.publish("timestamp")
    assert not client.refresh() and "rolled back" in client.error and client.version("timestamp") == 2


@case(("basic", False), ("with hashes", True))
def test_snapshot_rollback(repo, client, hashes):
    repo.hashes = hashes
    repo.publish("snapshot", "timestamp")
    assert client.refresh()
    repo.restart("snapshot")
    repo.publish("snapshot", "timestamp")
    assert not client.refresh() and repo.requests[-1] == ("timestamp", None)
    assert (client.version("timestamp"), client.version("snapshot")) == (2, 2)


@case(("basic", False), ("with hashes", True))
def test_targets_rollback(repo, client, hashes):
    repo.hashes = hashes
    repo.all()
    assert client.refresh()
    repo.restart("targets")
    repo.all()
    assert not client.refresh()
    assert (client.version("snapshot"), client.version("targets")) == (2, 2)


@case()
def test_targets_role_removal(repo, client):
    repo.delegate("targets", "delegated")
    repo.publish("delegated", "targets", "snapshot", "timestamp")
    assert client.refresh()
    del repo.signed("snapshot").meta["delegated.json"]
    repo.publish("snapshot", "timestamp")
    assert not client.refresh() and client.version("snapshot") == 2


@case()
def test_targets_fast_forward_recovery(repo, client):
    repo.delegate("targets", "delegated")
    repo.publish("delegated")
    for _ in range(20):
        repo.publish("targets")
    repo.publish("snapshot", "timestamp")
    assert client.refresh() and client.version("targets") == 21
    repo.rotate("snapshot")
    repo.restart("targets")
    del repo.signed("snapshot").meta["delegated.json"]
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() and client.version("targets") == 1


@case()
def test_new_snapshot_fast_forward_recovery(repo, client):
    for _ in range(20):
        repo.publish("snapshot")
    repo.publish("timestamp")
    assert client.refresh() and client.version("snapshot") == 21
    repo.rotate("snapshot")
    repo.rotate("timestamp")
    repo.restart("snapshot")
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() and client.version("snapshot") == 1


@case()
def test_new_timestamp_fast_forward_recovery(repo, client):
    for _ in range(20):
        repo.publish("timestamp")
    assert client.refresh() and client.version("timestamp") == 21
    repo.rotate("timestamp")
    repo.restart("timestamp")
    repo.publish("root", "timestamp")
    assert client.refresh() and client.version("timestamp") == 1


# Delegations: (delegator, role, paths, terminating) in order, and the roles that are asked for.

GRAPHS = {
    "basic-delegation": ("targets>A", "A"),
    "single-level-delegations": ("targets>A targets>B", "AB"),
    "two-level-delegations": ("targets>A targets>B B>C", "ABC"),
    "two-level-test-DFS-order-of-traversal": ("targets>A targets>B A>C A>D", "ACDB"),
    "three-level-delegation-test-DFS-order-of-traversal": ("targets>A targets>B A>C C>D", "ACDB"),
    "two-level-terminating-ignores-all-but-roles-descendants": ("targets>A targets>B A>C! A>D", "AC"),
    "three-level-terminating-ignores-all-but-roles-descendants": ("targets>A targets>B A>C! C>D", "ACD"),
    "two-level-ignores-all-branches-not-matching-paths": ("targets>A:*.py targets>B A>C", "B"),
    "three-level-ignores-all-branches-not-matching-paths": ("targets>A targets>B A>C:*.py C>D", "AB"),
    "cyclic-graph": ("targets>A targets>B B>C C>D D>B", "ABCD"),
    "two-roles-delegating-to-a-third": ("targets>A targets>B B>C A>C", "ACB"),
    "two-roles-delegating-to-a-third-different-paths": ("targets>A targets>B B>C A>C:*.py", "ABC"),
}


@case(*((name, *graph) for name, graph in GRAPHS.items()))
def test_graph_traversal(repo, client, graph, order):
    roles = set()
    for edge in graph.split():
        delegator, _, role = edge.partition(">")
        role, _, path = role.partition(":")
        repo.delegate(delegator, role.strip("!"), [path or "*"], role.endswith("!"))
        roles |= {role.strip("!")}
    repo.publish(*sorted(roles), "targets", "snapshot", "timestamp")
    assert not client.download("missingpath")
    assert repo.requests[4:] == [(role, 1) for role in order], repo.requests


@case(
    ("no delegations", "targetfile", True, ""),
    ("targetpath matches wildcard", "README.md", True, "A"),
    ("targetpath with separators x", "releases/x/x_v1", True, "BC"),
    ("targetpath with separators y", "releases/y/y_v1.zip", True, "BD"),
    ("targetpath is not delegated by all roles in the chain", "releases/z/z_v1.zip", False, "B"),
    ("wildcard does not match path separator", "releases/README.md", False, ""),
    ("targetpath matches question mark wildcard", "foo-1.tgz", True, "A"),
    ("targetpath does not match question mark wildcard", "foo-alpha.tgz", False, ""),
    ("targetpath matching is case sensitive", "README.MD", False, ""),
)
def test_targetfile_search(repo, client, path, found, order):
    repo.delegate("targets", "A", ["*.doc", "*.md", "foo-?.tgz"])
    repo.delegate("targets", "B", ["releases/*/*"])
    repo.delegate("B", "C", ["releases/x/*"])
    repo.delegate("B", "D", ["releases/y/*.zip"])
    for role, name in [
        ("targets", "targetfile"),
        ("A", "README.md"),
        ("A", "releases/README.md"),
        ("A", "foo-1.tgz"),
        ("A", "foo-alpha.tgz"),
        ("C", "releases/x/x_v1"),
        ("D", "releases/y/y_v1.zip"),
        ("D", "releases/z/z_v1.zip"),
    ]:
        repo.artifact(role, name, f"{role} {name}".encode())
    repo.publish("A", "B", "C", "D", "targets", "snapshot", "timestamp")
    assert client.download(path) == found
    assert client.got() == ([repo.artifacts[path]] if found else [])
    assert repo.requests[4:] == [(role, 1) for role in order], repo.requests


@case()
def test_cached_role_is_verified_against_current_delegator(repo, client):
    repo.delegate("targets", "parent-a", ["team-a/*"])
    repo.delegate("targets", "parent-b", ["team-b/*"])
    repo.delegate("parent-a", "release", ["team-a/*"])
    by_b = repo.delegate("parent-b", "release", ["team-b/*"])
    repo.signers["release"].remove(by_b)
    repo.artifact("release", "team-a/x", b"trusted A")
    repo.artifact("release", "team-b/x", b"malicious B")
    repo.publish("release", "parent-a", "parent-b", "targets", "snapshot", "timestamp")
    assert not client.download("team-a/x", "team-b/x")
    assert client.got() == [b"trusted A"]


@case()
def test_delegation_not_in_snapshot(repo, client):
    repo.delegate("targets", "delegated", ["delegatedpath/*"])
    repo.publish("delegated", "targets")
    del repo.signed("snapshot").meta["delegated.json"]
    repo.publish("snapshot", "timestamp")
    assert client.refresh()
    repo.requests.clear()
    assert not client.download("delegatedpath/foo") and client.version("delegated") is None
    assert repo.requests == [("root", 2), ("timestamp", None)]


# Rotations: (keys, threshold, signatures) of each version; the last one is accepted or not.

ROOTS = {
    "1-of-1-key-rotation": ([((1,), 1, (1,)), ((2,), 1, (2, 1)), ((2,), 1, (2,))], True),
    "1-of-1-key-rotation-unused-signatures": ([((1,), 1, (3, 1, 4)), ((2,), 1, (3, 2, 1, 4)), ((2,), 1, (3, 2, 4))], True),
    "3-of-5-sign-with-different-keycombos": ([((0, 1, 2, 3, 4), 3, s) for s in ((0, 2, 4), (0, 4, 1), (0, 1, 3))], True),
    "3-of-5-one-key-rotated": ([((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((0, 1, 3, 4, 5), 3, (0, 4, 1))], True),
    "3-of-5-one-key-rotated-with-intermediate-step": (
        [((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((0, 1, 3, 4, 5), 3, (0, 2, 4, 5)), ((0, 1, 3, 4, 5), 3, (0, 4, 5))],
        True,
    ),
    "3-of-5-all-keys-rotated-with-intermediate-step": (
        [((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((5, 6, 7, 8, 9), 3, (0, 2, 4, 5, 6, 7)), ((5, 6, 7, 8, 9), 3, (5, 6, 7))],
        True,
    ),
    "1-of-3-threshold-increase-to-2-of-3": ([((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (1, 2))], True),
    "2-of-3-threshold-decrease-to-1-of-3": (
        [((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1, 2)), ((1, 2, 3), 1, (1,))],
        True,
    ),
    "1-of-2-threshold-increase-to-2-of-2": ([((1,), 1, (1,)), ((1, 2), 2, (1, 2))], True),
    "1-of-1-key-rotation-fail-not-signed-with-old-key": ([((1,), 1, (1,)), ((2,), 1, (2, 3, 4))], False),
    "1-of-1-key-rotation-fail-not-signed-with-new-key": ([((1,), 1, (1,)), ((2,), 1, (1, 3, 4))], False),
    "3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys": (
        [((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((0, 1, 3, 4, 5), 3, (0, 2, 4))],
        False,
    ),
    "3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys": (
        [((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((0, 1, 3, 4, 5), 3, (0, 4, 5))],
        False,
    ),
    "1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": (
        [((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (2,))],
        False,
    ),
    "2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached": (
        [((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1,))],
        False,
    ),
}


@case(*((name, *args) for name, args in ROOTS.items()))
def test_root_rotation(repo, client, versions, accepted):
    repo.restart("root")
    for keys, threshold, sigs in versions:
        repo.set_keys("root", keys, threshold, sigs, POOL)
        repo.publish("root")
    assert client.init(repo.published["root"][0])
    assert client.refresh() == accepted
    expected = repo.published["root"][-1 if accepted else -2]
    assert (client.metadata / "root.json").read_bytes() == expected


FIVE, OTHER = (0, 1, 2, 3, 4), (0, 1, 3, 4, 5)


@case(
    ("1-of-1-key-rotation", (2,), 1, (2,), True),
    ("1-of-1-key-rotation-unused-signatures", (1,), 1, (3, 1, 4), True),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", (2,), 1, (1, 3, 4), False),
    ("3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys", OTHER, 3, (0, 2, 4), False),
    ("2-of-5-one-key-signature-mising-threshold-not-reached", OTHER, 3, (0, 4), False),
    ("3-of-5-sign-first-combo", FIVE, 3, (0, 2, 4), True),
    ("3-of-5-sign-second-combo", FIVE, 3, (0, 4, 1), True),
    ("3-of-5-sign-third-combo", FIVE, 3, (0, 1, 3), True),
    ("3-of-5-sign-fourth-combo", FIVE, 3, (1, 2, 3), True),
    ("3-of-5-sign-fifth-combo", FIVE, 3, (2, 3, 4), True),
)
def test_non_root_rotations(repo, client, keys, threshold, sigs, accepted):
    for role in ("timestamp", "snapshot", "targets"):
        repo.set_keys(role, keys, threshold, sigs, POOL)
        repo.publish("root", "targets", "snapshot", "timestamp")
        assert client.refresh() == accepted
        assert not accepted or client.has(role)


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failed = 0
    for name, function, args in CASES:
        try:
            repo = Repo()
            function(repo, Client(repo, server.server_port), *args)
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}")
    print(f"{len(CASES) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
