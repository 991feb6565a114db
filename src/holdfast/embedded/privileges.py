"""Which account runs PostgreSQL, which refuses to run as root, and where its data can then be.

docs/adr/0004-servers-started-as-root.md says what was measured and what was rejected.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.embedded.binaries import PostgresTree
from holdfast.embedded.launching import ENVIRONMENT, RunAs, run
from holdfast.embedded.layout import Layout
from holdfast.embedded.logs import summary
from holdfast.errors import ServerStartError

NAMESPACE_UID = 1000

# Accounts that own no files of their own worth protecting; the first that exists is used.
ACCOUNTS = ("postgres", "nobody", "daemon")

# For root alone: where data goes when the home is closed to the account that has to run PostgreSQL.
SHARED_AREAS = Path("/var/lib/holdfast")

DATA = "data"

_MAY_RUN = 'test -w "$1" && exec "$2" --version'
_MAY_ENTER = 'cd "$1"'


@dataclass(frozen=True, slots=True)
class Site:
    """How PostgreSQL runs here.

    Attributes:
        tree: the programs, reachable by the account.
        area: belongs to the account; the data is in its folder `data`.
        run_as: the account.
    """

    tree: PostgresTree
    area: Path
    run_as: RunAs

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.area / DATA


def data_area(layout: Layout) -> Path:
    """The area that holds this home's data; the home's own one if there is none yet."""
    areas = (layout.postgres, _shared_area(layout))
    return next((area for area in areas if (area / DATA).is_dir()), layout.postgres)


def choose(layout: Layout, tree: PostgresTree, say: Callable[[str], None]) -> Site:
    """Decide how to run PostgreSQL for this user, and make its area.

    Args:
        layout: of a home that exists.
        tree: the programs as installed.
        say: told when PostgreSQL has to run under another account.

    Raises:
        ServerStartError: there is no account that can run it.
    """
    uid = os.geteuid()
    if uid != 0 and _account_name(uid) is not None:
        return _made(Site(tree, layout.postgres, RunAs()))
    namespace = RunAs(prefix=_namespace())
    refusal = _refusal(namespace, tree, layout.home)
    if refusal is None:
        return _made(Site(tree, data_area(layout), namespace))
    if uid != 0:
        raise ServerStartError(
            f"postgres: user id {uid} is in no password file, and a user namespace fails ({refusal}): "
            "run as a user who has an entry, or name a server with HOLDFAST_POSTGRES_URL"
        )
    return _unprivileged(layout, tree, refusal, say)


def _namespace() -> tuple[str, ...]:
    """A user namespace where our id is not 0; files remain ours, under whatever directory they are."""
    # initdb looks its own id up in the password file.
    known = NAMESPACE_UID if _account_name(NAMESPACE_UID) else _account()[1].pw_uid
    return ("unshare", "--user", f"--map-user={known}", f"--map-group={known}")


def _refusal(namespace: RunAs, tree: PostgresTree, home: Path) -> str | None:
    """Why the namespace cannot be used for this home; None when it can."""
    if shutil.which("unshare", path=ENVIRONMENT["PATH"]) is None:
        return "there is no unshare program"
    tried = run(["/bin/sh", "-c", _MAY_RUN, "sh", str(home), tree.program("initdb")], namespace)
    if tried.returncode == 0:
        return None
    return summary(tried.stdout.splitlines()) if tried.stdout else f"it cannot write in {home}"


def _unprivileged(layout: Layout, tree: PostgresTree, refusal: str, say: Callable[[str], None]) -> Site:
    """Run as an existing account that is not root, with data and programs where it can reach them."""
    name, account = _account()
    run_as = RunAs(uid=account.pw_uid, gid=account.pw_gid)
    area = _reachable_area(layout, name, run_as)
    say(
        f"postgres: running it as user {name}, with its data in {area}, since it refuses root and "
        f"a user namespace does not do here ({refusal})"
    )
    _made(Site(tree, area, run_as))
    return Site(_reachable_tree(tree, area, run_as, say), area, run_as)


def _reachable_area(layout: Layout, name: str, run_as: RunAs) -> Path:
    area = data_area(layout)
    if _succeeds(run_as, _MAY_ENTER, str(layout.home.parent)):
        layout.home.chmod(0o711)  # its files are 0600; only the way to the area is opened
        return area
    if area == layout.postgres and (area / DATA).exists():
        raise ServerStartError(
            f"postgres: root may not run it, and user {name} cannot reach its data in {area}: "
            "use a home under a directory that is open to others, or name a server with HOLDFAST_POSTGRES_URL"
        )
    SHARED_AREAS.mkdir(parents=True, exist_ok=True)
    SHARED_AREAS.chmod(0o755)
    return _shared_area(layout)


def _reachable_tree(tree: PostgresTree, area: Path, run_as: RunAs, say: Callable[[str], None]) -> PostgresTree:
    """The programs as installed, or where they are closed to the account a copy in its area."""
    if _succeeds(run_as, 'exec "$1" --version', tree.program("initdb")):
        return tree
    installed = Path(tree.program("postgres")).stat()
    stamp = f"{tree.root} {installed.st_size} {installed.st_mtime_ns}"
    folder = area / f"programs-{hashlib.sha256(stamp.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
    if not folder.is_dir():
        say(f"postgres: copying its programs to {folder}, since the account cannot reach those installed")
        for older in (*area.glob("programs-*"), *area.glob("copying-*")):
            shutil.rmtree(older)
        copying = area / f"copying-{os.getpid()}"
        tree.copy_to(copying)
        give(copying, run_as)
        copying.rename(folder)
    return tree.moved_to(folder)


def _made(site: Site) -> Site:
    """Make the area of a site, and give it with all that is in it to the account."""
    site.area.mkdir(exist_ok=True, mode=0o700)
    give(site.area, site.run_as)
    return site


def give(folder: Path, run_as: RunAs) -> None:
    """Give a folder and all in it to the account, if it is not the account's already."""
    uid = os.geteuid() if run_as.uid is None else run_as.uid
    gid = os.getegid() if run_as.gid is None else run_as.gid
    if folder.stat().st_uid == uid:
        return
    # The folder itself comes last: should this be interrupted, the next start does it again.
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)
    os.chown(folder, uid, gid)


def _shared_area(layout: Layout) -> Path:
    return SHARED_AREAS / hashlib.sha256(os.fsencode(layout.home)).hexdigest()[:16]


def _succeeds(run_as: RunAs, script: str, *arguments: str) -> bool:
    return run(["/bin/sh", "-c", script, "sh", *arguments], run_as).returncode == 0


def _account() -> tuple[str, pwd.struct_passwd]:
    """The account that runs what root may not."""
    for name in ACCOUNTS:
        try:
            return name, pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerStartError(f"postgres: root may not run it, and none of the users {', '.join(ACCOUNTS)} exists")


def _account_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
