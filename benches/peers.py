#!/usr/bin/env python3
"""`mlctl` beside other queues of programs: what it takes to submit one, until its process runs, and how many that do nothing end in a second, two at a time. One after the other, round by round.

    peers.py --mlctl FOLDER [--pueue FOLDER] [--tsp PROGRAM] [--rounds N] [--jobs N] [--probes N] [--dir DIR]

Called by `ops/bench peers`. FOLDER holds `mld` and `mlctl`, or `pueued` and `pueue`; a peer that is not named takes no part. The queues stand side by side on the same disk (--dir, not a tmpfs), with two slots each.
mlctl answers when a job would survive the loss of power, pueue and task-spooler do not wait for the disk, and task-spooler keeps its queue in memory. "runs" is when a job's `date` looks at the clock, which costs all of them
the same. Medians with the least and the most: on a machine that does other things as well, only ratios within a run mean something.
"""
import argparse, contextlib, json, os, statistics, subprocess, sys, tempfile, time

CEILING = 600


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--mlctl', required=True)
    args.add_argument('--pueue')
    args.add_argument('--tsp')
    args.add_argument('--rounds', type=int, default=3)
    args.add_argument('--jobs', type=int, default=1000)
    args.add_argument('--probes', type=int, default=20)
    args.add_argument('--dir')
    args = args.parse_args()
    kinds = {'mlctl': lambda home: Mlctl(home, args.mlctl)}
    if args.pueue:
        kinds['pueue'] = lambda home: Pueue(home, args.pueue)
    if args.tsp:
        kinds['task-spooler'] = lambda home: Spooler(home, args.tsp)
    found = {name: {} for name in kinds}
    for number in range(args.rounds):
        for name in list(kinds) if number % 2 == 0 else list(kinds)[::-1]:
            with tempfile.TemporaryDirectory(prefix='peers-', dir=args.dir) as home, kinds[name](home) as queue:
                for what, values in measure(queue, home, min(args.jobs, queue.most), args.probes):
                    found[name].setdefault(what, []).extend(values)
                print(f'round {number + 1}: {name}', file=sys.stderr, flush=True)
    show(found)


def measure(queue, home, jobs, probes):
    """Yields what was measured, and its values in seconds, jobs a second or MiB."""
    starts, submits = [], []
    for number in range(probes):
        stamp = f'{home}/stamp-{number}'
        begun = time.time()
        queue.submit('/bin/sh', '-c', f'date +%s.%N > {stamp}')
        submits.append(time.time() - begun)
        starts.append(until(lambda: read(stamp)) - begun)
        # Not in time with what looks at its queue once in a while.
        time.sleep(0.05 + number * 0.073 % 0.3)
    yield 'submit, nothing waiting', submits
    yield 'submit until it runs', starts
    queue.hold()
    begun = time.time()
    for _ in range(jobs):
        queue.submit('/bin/true')
    yield 'submits a second, one after the other', [jobs / (time.time() - begun)]
    deep = []
    for _ in range(probes):
        begun = time.time()
        queue.submit('/bin/true')
        deep.append(time.time() - begun)
    yield 'submit, many waiting', deep
    begun = time.time()
    queue.go()
    queue.drained()
    yield 'jobs of nothing a second, 2 at a time', [(jobs + probes) / (time.time() - begun)]
    yield 'memory of the daemon, then', [queue.memory()]


def read(stamp):
    with contextlib.suppress(OSError, ValueError):
        with open(stamp) as file:
            return float(file.read())


def until(look):
    ends = time.time() + CEILING
    while time.time() < ends:
        found = look()
        if found:
            return found
        time.sleep(0.002)
    sys.exit(f'it did not happen within {CEILING} s')


class Queue:
    """A daemon of its own, ended at the exit of `with`."""
    # As many as it may have waiting.
    most = 1 << 30
    daemon = None
    environment = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.daemon.terminate()
        self.daemon.wait()

    def run(self, *argv):
        done = subprocess.run(argv, env=dict(os.environ, **self.environment), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f'{argv} failed: {done.stdout[-500:]}{done.stderr[-500:]}')
        return done.stdout

    def start(self, *argv):
        with open(f'{self.home}/log', 'w') as log:
            self.daemon = subprocess.Popen(argv, env=dict(os.environ, **self.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def pid(self):
        return self.daemon.pid

    def memory(self):
        with open(f'/proc/{self.pid()}/status') as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith('VmRSS'))


class Mlctl(Queue):
    def __init__(self, home, programs):
        self.home, self.mlctl = home, f'{programs}/mlctl'
        self.environment = {'MLCTL_SOCKET': f'{home}/state/mld.sock'}
        self.start(f'{programs}/mld', '--state-dir', f'{home}/state', '--set', 'workers.cpus=2', '--set', "log.level='warn'")
        until(lambda: os.path.exists(f'{home}/state/mld.sock'))

    def submit(self, *argv):
        self.last = self.run(self.mlctl, 'submit', '-q', '--', *argv).strip()

    def hold(self):
        self.run(self.mlctl, 'queue', 'pause', 'default')

    def go(self):
        self.run(self.mlctl, 'queue', 'resume', 'default')

    def drained(self):
        # They start in their order.
        self.run(self.mlctl, 'wait', self.last)


class Pueue(Queue):
    # It starts two whenever it looks, three times a second: more only take longer.
    most = 100

    def __init__(self, home, programs):
        self.home, self.pueue = home, f'{programs}/pueue'
        self.config = f'{home}/pueue.yml'
        with open(self.config, 'w') as file:
            file.write(f'shared:\n  pueue_directory: {home}/data\n  runtime_directory: {home}\n  use_unix_socket: true\n'
                       f'  unix_socket_path: {home}/pueue.sock\n  pid_path: {home}/pueue.pid\nclient: {{}}\ndaemon: {{}}\n')
        os.makedirs(f'{home}/data')
        self.start(f'{programs}/pueued', '-c', self.config)
        until(lambda: os.path.exists(f'{home}/pueue.sock'))
        until(lambda: subprocess.run([self.pueue, '-c', self.config, 'status'], capture_output=True).returncode == 0)
        self.run(self.pueue, '-c', self.config, 'parallel', '2')

    def submit(self, *argv):
        self.run(self.pueue, '-c', self.config, 'add', '--escape', '--', *argv)

    def hold(self):
        self.run(self.pueue, '-c', self.config, 'pause')

    def go(self):
        self.run(self.pueue, '-c', self.config, 'start')

    def drained(self):
        def is_over():
            tasks = json.loads(self.run(self.pueue, '-c', self.config, 'status', '--json'))['tasks'].values()
            return all('Done' in task['status'] for task in tasks)
        until(is_over)


class Spooler(Queue):
    # With a thousand waiting its clients hang.
    most = 500

    def __init__(self, home, program):
        self.home, self.tsp = home, program
        self.environment = {'TS_SOCKET': f'{home}/tsp.sock', 'TMPDIR': home, 'TS_MAXFINISHED': '10', 'TS_SLOTS': '2'}
        self.run(program, '-S', '2')

    def __exit__(self, *_):
        self.run(self.tsp, '-K')

    def pid(self):
        # Each that waits is a process with the same environment; the server was there before them.
        return next(pid for pid in sorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit()) if self.is_own(pid))

    def is_own(self, pid):
        with contextlib.suppress(OSError), open(f'/proc/{pid}/environ', 'rb') as file:
            return f'TS_SOCKET={self.home}/tsp.sock'.encode() in file.read()

    def submit(self, *argv):
        self.last = self.run(self.tsp, *argv).strip()

    def hold(self):
        # It knows no pause: its slots are occupied.
        self.blockers = [self.run(self.tsp, 'sleep', '1000').strip() for _ in range(2)]

    def go(self):
        for blocker in self.blockers:
            self.run(self.tsp, '-k', blocker)

    def drained(self):
        self.run(self.tsp, '-w', self.last)


def show(found):
    names = list(found)
    print(f'| {"median (least to most)":38} | ' + ' | '.join(f'{name:26}' for name in names) + ' |')
    print(f'|{"---|" * (len(names) + 1)}')
    for what in found[names[0]]:
        cells = []
        for name in names:
            values = found[name][what]
            if 'a second' in what or 'memory' in what:
                unit, times = ('MiB', 1) if 'memory' in what else ('/s', 1)
            else:
                unit, times = 'ms', 1000
            low, mid, high = (times * value for value in (min(values), statistics.median(values), max(values)))
            cells.append(f'{f"{mid:.1f} {unit} ({low:.1f} to {high:.1f})":26}')
        print(f'| {what:38} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
