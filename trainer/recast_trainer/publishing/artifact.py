"""Write an artefact so that every crash leaves either nothing or a complete version.

The files go into ``<path>.incomplete``, the manifest last; all is forced to the disk; then one rename gives the folder
its name. A folder with the final name is therefore complete, and a later attempt of the run only publishes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from recast_api.manifest import MANIFEST, Manifest, load_verified
from recast_trainer.files import replace, sync_tree

INCOMPLETE = ".incomplete"


def land(final: Path, write: Callable[[Path], None], describe: Callable[[list[str], Path], Manifest]) -> Manifest:
    """Land a version in ``final``.

    ``write`` puts the files into the folder it is given; ``describe`` makes the manifest from their relative names.
    """
    work = final.with_name(final.name + INCOMPLETE)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write(work)
    names = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())
    manifest = describe(names, work)
    (work / MANIFEST).write_text(json.dumps(manifest.wire(), indent=1, sort_keys=True))
    sync_tree(work)
    replace(work, final)
    return manifest


def landed(final: Path) -> Manifest | None:
    """The version that an earlier attempt of the same run completed but may not have published; its bytes checked."""
    if not (final / MANIFEST).exists():
        return None
    manifest = Manifest.model_validate_json((final / MANIFEST).read_bytes())
    return load_verified(final, manifest.digest)
