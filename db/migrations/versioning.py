"""Compares the schema of a database with this version's, and upgrades it.

Alembic is imported only when it is needed: most processes of a node never look at the schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Engine

if TYPE_CHECKING:
    from alembic.config import Config

SchemaStatus = Literal["current", "old", "newer", "empty"]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def schema_status(engine: Engine) -> SchemaStatus:
    """How the schema of a database compares with this version's; ``empty`` means that there is none."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision for script in scripts.walk_revisions()}
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        return "empty"
    if revision not in known:
        return "newer"
    return "current" if revision == scripts.get_current_head() else "old"


def upgrade(engine: Engine) -> None:
    """Run the missing migrations."""
    from alembic import command

    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
