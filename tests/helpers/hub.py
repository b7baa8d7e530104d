"""A hub of one repository on this machine, which answers the requests of the hub's library."""
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as constants


class Hub:
    """commits: hash -> {file name: its bytes}; `main` is the latest. refusal: if set, the status and the
    hub's error code that every request gets. broken: files that end after half of their bytes. served: what
    was downloaded, (commit, file name), in order."""
    def __init__(self, monkeypatch, repo):
        self.commits, self.main, self.refusal, self.broken, self.served = {}, "", None, (), []
        prefix = f"/{repo}/resolve/"
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def answer(self, with_body):
                revision, _, name = self.path.removeprefix(prefix).partition("/")
                commit = hub.main if revision == "main" else revision
                content = hub.commits.get(commit, {}).get(name)
                status, code = hub.refusal or (
                    (404, "RepoNotFound") if not self.path.startswith(prefix)
                    else (404, "RevisionNotFound") if commit not in hub.commits
                    else (404, "EntryNotFound") if content is None else (200, None))
                body = content if status == 200 else b""
                self.send_response(status)
                if code is not None:
                    self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body and status == 200:
                    hub.served.append((commit, name))
                    self.wfile.write(body[:len(body) // 2] if name in hub.broken else body)

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            address + "/{repo_id}/resolve/{revision}/{filename}")

    def close(self):
        self.server.shutdown()
        self.server.server_close()
