"""PyTorch on the jobs of `steps.rs`, for comparison: the steps per second of its training loop, in eager mode, as one line of JSON. Needs torch.

    python3 pytorch.py --job mlp --batch 1000 --seconds 3 --threads 2 [--fused]
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn

ROWS = {"mlp": 10_000, "cnn": 2_000, "gpt": 64}
VOCAB, CONTEXT, WIDTH, DEPTH, HEADS = 65, 256, 384, 6, 6


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = nn.Linear(1000, 500), nn.Linear(500, 100), nn.Linear(100, 10)

    def forward(self, x):
        return self.layer3(torch.relu(self.layer2(torch.relu(self.layer1(x)))))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding="same"), nn.Conv2d(32, 64, 3, padding="same")
        self.fc1, self.fc2 = nn.Linear(64 * 7 * 7, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x.reshape(-1, 1, 28, 28))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.attended = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed, self.fed = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        rows, places, _ = x.shape
        heads = lambda y: y.view(rows, places, HEADS, WIDTH // HEADS).transpose(1, 2)
        query, key, value = map(heads, self.attend(self.ln_1(x)).split(WIDTH, dim=2))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(mixed.transpose(1, 2).reshape(rows, places, WIDTH))
        return x + self.fed(nn.functional.gelu(self.feed(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers, self.ln_f = nn.ModuleList(Layer() for _ in range(DEPTH)), nn.LayerNorm(WIDTH)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places.weight
        for layer in self.layers:
            x = layer(x)
        return nn.functional.linear(self.ln_f(x), self.tokens.weight).flatten(0, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=ROWS, default="mlp")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused Adam instead of its default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = ROWS[options.job]
    if options.job == "mlp":
        x, y, net, loss_of = torch.randn(rows, 1000), torch.randn(rows, 10), Mlp(), nn.functional.mse_loss
    elif options.job == "gpt":
        tokens = torch.randint(VOCAB, (rows * CONTEXT + 1,))
        x, y, net, loss_of = tokens[:-1].view(rows, CONTEXT), tokens[1:].view(rows, CONTEXT), Gpt(), nn.functional.cross_entropy
    else:
        x, y, net, loss_of = torch.randn(rows, 784), torch.arange(rows) % 10, Cnn(), nn.functional.cross_entropy
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=options.fused or None)
    batch, place, times = options.batch, 0, []

    def step():
        nonlocal place
        if place + batch > rows:
            place = 0
        wanted = y[place:place + batch]
        loss = loss_of(net(x[place:place + batch]), wanted.flatten() if options.job == "gpt" else wanted)
        place += batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    least = 3 if options.job == "gpt" else 20
    for _ in range(least // 2):
        step()
    end = time.perf_counter() + options.seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        step().item()
        times.append(time.perf_counter() - began)
    print(json.dumps({
        "steps_per_s": 1.0 / statistics.median(times),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": torch.__version__,
    }))


main()
