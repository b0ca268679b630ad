#!/usr/bin/env python3
"""Measures how a Rust workspace is built: file sizes, long functions, panics, module docs, import cycles.

    ops/house.py [ROOT]           # a table and the places worth a look
    ops/house.py --gate [ROOT]    # the same, and exit code 1 for what is not allowed here: a file over 600 lines, an import cycle,
                                  # a file without a //! header, an unwrap outside tests

Regex counters, so figures are approximate. Test code (tests/, benches/, tests.rs, *_tests.rs, `#[cfg(test)]` modules) is left out.
"""
import collections, os, re, sys

FN = re.compile(r'^\s*(?:pub(?:\([^)]*\))?\s+)?(?:default\s+|const\s+|async\s+|unsafe\s+|extern\s+"C"\s+)*fn\s+(\w+)')
SKIP = {'target', 'vendor', 'node_modules', '.git', 'tests', 'benches', 'examples', 'fuzz'}


def rust_files(root):
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in SKIP)
        for f in sorted(files):
            if f.endswith('.rs') and not f.endswith('_tests.rs') and f not in ('tests.rs', 'build.rs'):
                yield os.path.join(folder, f)


def product_lines(path):
    lines = open(path, encoding='utf8', errors='replace').read().split('\n')
    for i, line in enumerate(lines):
        if re.match(r'#\[cfg\((all\()?test', line):
            return lines[:i]
    return lines


def functions(lines):
    i = 0
    while i < len(lines):
        m = FN.match(lines[i])
        if m:
            depth, started, j = 0, False, i
            while j < len(lines):
                s = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'', '', lines[j]).split('//')[0]
                depth += s.count('{') - s.count('}')
                started |= '{' in s
                if (not started and s.rstrip().endswith(';')) or (started and depth <= 0):
                    break
                j += 1
            if started:
                yield m.group(1), i + 1, j - i + 1
        i += 1


def cycles(src):
    """Groups of top-level modules under one src/ folder that import each other in a loop."""
    edges, tops = collections.defaultdict(set), set()
    texts = []
    for path in rust_files(src):
        top = os.path.relpath(path, src).split(os.sep)[0].removesuffix('.rs')
        if top in ('lib', 'main', 'bin'):
            continue
        tops.add(top)
        texts.append((top, re.sub(r'//[^\n]*', '', '\n'.join(product_lines(path)))))
    for top, text in texts:
        used = set(re.findall(r'\bcrate::(\w+)', text))
        for block in re.findall(r'\bcrate::\{(.*?)\};', text, re.S):
            used |= set(re.findall(r'(?:^|,)\s*(\w+)', re.sub(r'\{[^{}]*\}', '', block)))
        edges[top] |= {u for u in used if u in tops and u != top}

    def reach(a):
        seen, todo = set(), list(edges[a])
        while todo:
            b = todo.pop()
            if b not in seen:
                seen.add(b)
                todo += edges[b]
        return seen
    far = {t: reach(t) for t in tops}
    groups = {frozenset({t} | {u for u in far[t] if t in far[u]}) for t in tops if t in far[t]}
    return [sorted(g) for g in groups]


def main():
    gate = '--gate' in sys.argv
    places = [a for a in sys.argv[1:] if not a.startswith('--')]
    root = places[0] if places else '.'
    sizes, fns, panics, unwraps, code, nodoc = [], [], [], [], 0, []
    for path in rust_files(root):
        lines = product_lines(path)
        rel = os.path.relpath(path, root)
        body = [l for l in lines if l.strip() and not l.strip().startswith('//')]
        code += len(body)
        sizes.append((len(lines), rel))
        if body and not any(l.startswith('//!') for l in lines[:40]):
            nodoc.append(rel)
        fns += [(n, f'{rel}:{at} {name}') for name, at, n in functions(lines)]
        for at, l in enumerate(lines, 1):
            if not l.strip().startswith('//') and re.search(r'\.unwrap\(\)|\.expect\(|\b(todo|unimplemented)!\(', l):
                panics.append(f'{rel}:{at}')
            if not l.strip().startswith('//') and re.search(r'\.unwrap\(\)|\b(todo|unimplemented)!\(', l):
                unwraps.append(f'{rel}:{at}')
    if not sizes:
        print('no Rust files')
        return
    long_fns = sorted((f for f in fns if f[0] > 70), reverse=True)
    loops = []
    for folder, names, _ in os.walk(root):
        names[:] = [n for n in names if n not in SKIP]
        if os.path.basename(folder) == 'src':
            loops += [(os.path.relpath(folder, root), g) for g in cycles(folder)]
    n = len(sizes)
    print(f'files {n}, code lines {code}, up to 250 lines {100 * sum(s <= 250 for s, _ in sizes) // n} %, largest {max(sizes)[0]}')
    print(f'functions {len(fns)}, over 70 lines {len(long_fns)} ({100 * len(long_fns) / max(1, len(fns)):.1f} %)')
    print(f'unwrap/expect/todo per 1,000 lines {1000 * len(panics) / max(1, code):.1f}, files without //! {len(nodoc)}, import cycles {len(loops)}')
    for size, rel in sorted(sizes, reverse=True)[:8]:
        if size > 400:
            print(f'  large file     {size:5d}  {rel}')
    for size, where in long_fns[:10]:
        print(f'  long function  {size:5d}  {where}')
    for src, group in loops:
        print(f'  import cycle   {src}: {" <-> ".join(group)}')
    for rel in nodoc[:10]:
        print(f'  no //! header  {rel}')
    for where in unwraps[:10]:
        print(f'  unwrap         {where}')
    if gate and (max(sizes)[0] > 600 or loops or nodoc or unwraps):
        sys.exit('house: not allowed here (see above)')


if __name__ == '__main__':
    main()
