"""Run by test_densecl_two_ranks.py, once per rank: RANK, WORLD_SIZE, MASTER_* and the golden file's name.

Compares every recorded quantity of one DenseCL forward on two gloo processes; a difference is a non-zero
exit.
"""

import sys

import torch
import torch.distributed as dist
from densecl_golden import TOLERANCE, ConvBackbone, assert_state, build, load, load_state, state
from torch.testing import assert_close

from densessl.layers.batch_shuffle import ShufflePlan
from densessl.losses.dense_info_nce import match_dense


def main(name):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    data = load(name)
    images = data["in/images"]  # (W, N, 2, C, H, W)
    width = data["in/init.encoder_q.0.conv.weight"].shape[0]
    backbone = ConvBackbone(images.shape[3], width)
    model = build(data, backbone, "in/init.encoder_q.1.", dense=True, image_channels=images.shape[3])
    load_state(model, state(data, "in/init."))
    draws = []

    def recorded_permutation(rows):
        draws.append(rows)
        return ShufflePlan(data["in/idx_shuffle"], rank, dist.get_world_size())

    model.batch_shuffle.draw = recorded_permutation
    seen = {}
    encode_key, embed_query = model.encode_key, model.embed_query
    model.encode_key = lambda view: seen.setdefault("key", encode_key(view))
    model.embed_query = lambda feature: seen.setdefault("query", embed_query(feature))

    model.update_momentum_encoder()
    losses = model({"views": [images[rank, :, 0], images[rank, :, 1]]})
    model.enqueue_pending()

    assert draws == [images.shape[1]]
    assert_close(losses["loss_global"], data["out/loss_contra_single"][rank], **TOLERANCE, check_dtype=False)
    assert_close(losses["loss_dense"], data["out/loss_contra_dense"][rank], **TOLERANCE, check_dtype=False)
    assert_close(seen["key"]["global"], data["out/k_global"][rank], **TOLERANCE)
    assert_close(seen["key"]["pooled"], data["out/k_pooled"][rank], **TOLERANCE)
    match = match_dense(seen["query"]["grid"], seen["key"]["grid"])
    assert torch.equal(match, data["out/match_index"][rank])
    assert_state(model, state(data, "out/final."))
    per_rank = state(data, "out/per_rank.final.")
    assert len(per_rank) == 4
    assert_state(model, {key: value[rank] for key, value in per_rank.items()})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
