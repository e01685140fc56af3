"""Tiled servers in processes of their own, with users, keys and tags, which may be killed and started again."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 120.0
READING = ["read:metadata", "read:data"]
WRITING = [*READING, "write:metadata", "write:data", "create:node", "delete:node"]
CONFIGURATION = """
authentication:
  providers:
    - provider: toy
      authenticator: tiled.authenticators:DictionaryAuthenticator
      args: {users_to_passwords: {alice: secret1, daq: secret2, bob: secret3, carol: secret4}}
  secret_keys: [NOT-SO-SECRET]
  tiled_admins: [{provider: toy, id: alice}]
database: {uri: "sqlite:///FOLDER/users.db", init_if_not_exists: true}
streaming_cache: {uri: memory}
trees:
  - path: /
    tree: catalog
    args:
      uri: "sqlite:///FOLDER/catalog.db"
      init_if_not_exists: true
      writable_storage: ["file://localhostFOLDER/data", "duckdb:///FOLDER/tables.duckdb"]
TAGS
media_types:
  BlueskyRun:
    application/json-seq: bluesky_tiled_plugins.exporters:json_seq_exporter
"""
POLICY = """
      top_level_access_tags: [TAG]
access_control:
  access_policy: tiled.access_control.access_policies:TagBasedAccessPolicy
  args: {provider: toy, access_tags_parser: "tiled.access_control.access_tags:AccessTagsParser"}
"""
PASSWORDS = {"alice": "secret1", "daq": "secret2", "bob": "secret3", "carol": "secret4"}


def until(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)  # asking costs the server something, too
    return bool(condition())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """A Tiled server, of which alice is the administrator.

    Parameters
    ----------
    folder : Path
        Holds all it knows.
    tags : mapping of str to mapping of str to sequence of str, optional
        What each user may do with what has a tag, by tag and user; those who may write may also give the tag. Without
        it all users may do all. The first is that of the root.
    """

    def __init__(self, folder: Path, tags: dict[str, dict[str, list[str]]] | None = None) -> None:
        self.folder, self._tags = folder, tags
        self.uri = f"http://127.0.0.1:{free_port()}"
        (folder / "data").mkdir()
        policy = POLICY.replace("TAG", next(iter(tags))) if tags else ""
        configuration = CONFIGURATION.replace("FOLDER", str(folder)).replace("TAGS", policy)
        (folder / "config.yml").write_text(configuration)
        self.start()

    def start(self) -> None:
        """Begin, with what was there before."""
        command = [sys.executable, "-m", "tiled", "serve", "config", str(self.folder / "config.yml")]
        port = self.uri.rpartition(":")[2]
        self._log = (self.folder / "log").open("a")
        self._process = subprocess.Popen([*command, "--port", port], stdout=self._log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Until it answers."""
        import httpx

        def answers() -> bool:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            try:
                return bool(httpx.get(f"{self.uri}/api/v1/").is_success)
            except httpx.TransportError:
                return False

        assert until(answers), Path(self._log.name).read_text()
        if self._tags:
            asyncio.run(self._define(self._tags))
            self._tags = None  # the server's catalogue knows them from now on

    def key(self, *scopes: str, user: str = "alice") -> str:
        """A new key of a user."""
        import httpx

        login = {"username": user, "password": PASSWORDS[user], "grant_type": "password"}
        token = httpx.post(f"{self.uri}/api/v1/auth/provider/toy/token", data=login).json()["access_token"]
        asked = {"scopes": list(scopes), "expires_in": 3600}
        header = {"Authorization": f"Bearer {token}"}
        secret: str = httpx.post(f"{self.uri}/api/v1/auth/apikey", headers=header, json=asked).json()["secret"]
        return secret

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.kill()
        self._process.wait(SECONDS)
        self._log.close()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._log.close()

    async def _define(self, tags: dict[str, dict[str, list[str]]]) -> None:
        from tiled.access_control.access_tags import AccessTagsCompiler
        from tiled.access_control.scopes import ALL_SCOPES
        from tiled.server.connection_pool import close_database_connection_pool
        from tiled.server.settings import DatabaseSettings

        definitions = {
            "tags": {
                tag: {"users": [{"name": user, "scopes": scopes} for user, scopes in users.items()]}
                for tag, users in tags.items()
            },
            "tag_owners": {
                tag: {"users": [{"name": user} for user, scopes in users.items() if scopes == WRITING]}
                for tag, users in tags.items()
            },
        }
        database = DatabaseSettings(uri=f"sqlite:///{self.folder}/catalog.db")
        compiler = AccessTagsCompiler(ALL_SCOPES, definitions, database, lambda group: [])
        compiler.load_tag_config()
        await compiler.compile()
        await close_database_connection_pool(database)
