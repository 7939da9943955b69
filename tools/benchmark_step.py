"""Times a training step of DenseCL and MoCo-v2 here and in lightly, side by side on this machine.

    python tools/benchmark_step.py [--depth 50] [--size 224] [--batch 16] [--queue 65536] [--rounds 7]

Both sides train the same ResNet on the same uint8 batches: normalisation, two encoders, both losses,
backward, SGD, averaging and queues. lightly's side is put together from its building blocks as its own
example shows (torchvision trunk, DenseCLProjectionHead, NTXentLoss with a memory bank,
select_most_similar, update_momentum). Steps alternate, so that a change of the machine's speed meets
both. Printed as Markdown: the median of processor seconds (wall seconds on a GPU) and their ratio.
"""

import argparse
import copy
import statistics
import time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50))
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--queue", type=int, default=65536, help="negatives")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast on both sides")
    parser.add_argument("--channels-last", action="store_true", help="channels_last weights on both sides")
    return parser.parse_args()


def our_step(args, views, dense):
    """Returns a function that trains our model by one step on `views`, two uint8 (N, 3, H, W)."""
    import torch
    from detectron2.config import instantiate

    from densessl.config import get_config
    from densessl.solver import get_param_groups

    cfg = get_config(f"common/models/{'densecl' if dense else 'moco'}.py").model
    cfg.backbone.depth = args.depth
    if args.depth < 50:
        cfg.projection_head.in_channels = cfg.projection_head.hidden_channels = 512
    cfg.queue_size = args.queue
    model = prepare(instantiate(cfg), args)
    groups = get_param_groups(model, 0.03, 1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True)
    batch = {"views": views}

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step()

    return step


def lightly_step(args, views, dense):
    """Returns the same for the model put together from lightly's parts."""
    import torch
    import torchvision
    from lightly.loss import NTXentLoss
    from lightly.models import utils
    from lightly.models.modules import DenseCLProjectionHead

    resnet = getattr(torchvision.models, f"resnet{args.depth}")()
    channels = resnet.fc.in_features
    trunk = torch.nn.Sequential(*list(resnet.children())[:-2])
    heads = [DenseCLProjectionHead(channels, channels, 128) for _ in range(2 if dense else 1)]
    query = prepare(torch.nn.ModuleList([trunk, *heads]), args)
    key = copy.deepcopy(query).requires_grad_(False)
    criteria = [NTXentLoss(0.2, memory_bank_size=(args.queue, 128)).to(args.device) for _ in heads]
    optimizer = torch.optim.SGD(query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    mean = torch.tensor([123.675, 116.28, 103.53], device=args.device).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375], device=args.device).view(3, 1, 1)

    def encode(network, view):
        features = network[0]((view.to(args.device).float() - mean) / std)  # (N, C, H, W)
        flat = features.flatten(2).transpose(1, 2)  # (N, S, C)
        outputs = [network[1](features.mean((2, 3)))]
        if dense:
            outputs.append(network[2](flat))  # (N, S, D)
        return flat, outputs

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            utils.update_momentum(query, key, 0.999)
            query_flat, query_outputs = encode(query, views[0])
            with torch.no_grad():
                key_flat, key_outputs = encode(key, views[1])
            loss = criteria[0](query_outputs[0], key_outputs[0])
            if dense:
                matched = utils.select_most_similar(query_flat, key_flat, key_outputs[1])
                local = criteria[1](query_outputs[1].flatten(0, 1), matched.flatten(0, 1))
                loss = 0.5 * loss + 0.5 * local
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def prepare(module, args):
    import torch

    module = module.to(args.device)
    return module.to(memory_format=torch.channels_last) if args.channels_last else module


def seconds(step, device):
    """Processor seconds of one step on a CPU; wall seconds, synchronised, on a GPU."""
    import torch

    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    args = parse_arguments()
    import torch

    torch.manual_seed(0)
    views = [torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8) for _ in "qk"]
    views = [view.to(args.device) for view in views]
    print(
        f"ResNet-{args.depth}, {args.size} px, batch {args.batch}, queue {args.queue}, {args.device}, ",
        end="",
    )
    print(f"bf16 {args.amp}, channels_last {args.channels_last}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads\n")
    print("| method | densessl s/step | lightly s/step | lightly / densessl |")
    print("|---|---|---|---|")
    for name, dense in (("MoCo-v2", False), ("DenseCL", True)):
        steps = our_step(args, views, dense), lightly_step(args, views, dense)
        for step in steps:  # warm-up
            step()
        times = [[seconds(step, args.device) for step in steps] for _ in range(args.rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*times))
        ratio = statistics.median(b / a for a, b in times)
        print(f"| {name} | {ours:.3f} | {theirs:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
