"""Scenes to frames: a Triton kernel on a GPU, the same code on torch tensors elsewhere."""
import numpy as np
import torch

from . import motion
from .language import ON_GPU, jit, tl
from .scene import ray_colour

PARAMETERS = 4 + 2 * 12  # per frame, see pack()
SAMPLES = 2 if ON_GPU else 1  # per pixel and axis; a CPU is for trying things out


def pack(scenes, frames=motion.FRAMES):
    """(ids int32 [scene, 5]: floor, backdrop, solids, kind, kind; numbers float32 [scene, frame, 28])."""
    place = motion.animate(scenes, frames)
    n = place.shape[0]
    ids = np.stack([scenes["floor"], scenes["backdrop"], scenes["solids"], scenes["kind"][:, 0], scenes["kind"][:, 1]], 1)
    numbers = np.zeros((n, frames, PARAMETERS), np.float32)
    numbers[:, :, 0:3] = motion.lamp_direction(scenes)[:, None]
    for k in range(2):
        at = 4 + 12 * k
        numbers[:, :, at:at + 3] = motion.ALBEDO[scenes["colour"][:, k]][:, None]
        numbers[:, :, at + 3:at + 11] = place[:, :, k]
    return ids.astype(np.int32), numbers


if ON_GPU:
    @jit
    def _kernel(out, ids, numbers, frames, SIZE: tl.constexpr, SUB: tl.constexpr, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
        """One program: a tile of one frame, SUB x SUB samples a pixel. out: uint8 [scene, frame, SIZE, SIZE, 3]."""
        tiles_x: tl.constexpr = SIZE // TILE_W
        tile = tl.program_id(0)
        frame = tl.program_id(1)
        scene = frame // frames
        lane = tl.arange(0, TILE_W * TILE_H)
        px = (tile % tiles_x) * TILE_W + lane % TILE_W
        py = (tile // tiles_x) * TILE_H + lane // TILE_W
        floor = tl.load(ids + scene * 5)
        backdrop = tl.load(ids + scene * 5 + 1)
        count = tl.load(ids + scene * 5 + 2)
        kind0 = tl.load(ids + scene * 5 + 3)
        kind1 = tl.load(ids + scene * 5 + 4)
        p = numbers + frame * 28
        r = tl.zeros([TILE_W * TILE_H], tl.float32)
        g = tl.zeros([TILE_W * TILE_H], tl.float32)
        b = tl.zeros([TILE_W * TILE_H], tl.float32)
        for sample in range(SUB * SUB):
            sx = (px + (sample % SUB + 0.5) / SUB) * (2.0 / SIZE) - 1.0
            sy = 1.0 - (py + (sample // SUB + 0.5) / SUB) * (2.0 / SIZE)
            cr, cg, cb = ray_colour(
                sx, sy, floor, backdrop, tl.load(p), tl.load(p + 1), tl.load(p + 2), count,
                kind0, tl.load(p + 4), tl.load(p + 5), tl.load(p + 6), tl.load(p + 7), tl.load(p + 8), tl.load(p + 9),
                tl.load(p + 10), tl.load(p + 11), tl.load(p + 12), tl.load(p + 13), tl.load(p + 14),
                kind1, tl.load(p + 16), tl.load(p + 17), tl.load(p + 18), tl.load(p + 19), tl.load(p + 20), tl.load(p + 21),
                tl.load(p + 22), tl.load(p + 23), tl.load(p + 24), tl.load(p + 25), tl.load(p + 26))
            r += cr
            g += cg
            b += cb
        at = out + ((frame.to(tl.int64) * SIZE + py) * SIZE + px) * 3
        scale: tl.constexpr = 255.0 / (SUB * SUB)
        tl.store(at, (r * scale + 0.5).to(tl.uint8))
        tl.store(at + 1, (g * scale + 0.5).to(tl.uint8))
        tl.store(at + 2, (b * scale + 0.5).to(tl.uint8))


def _render_torch(ids, numbers, size, sub):
    frames = numbers.shape[1]
    out = torch.empty(ids.shape[0], frames, size, size, 3, dtype=torch.uint8)
    axis = torch.arange(size, dtype=torch.float32)
    for i, (floor, backdrop, count, kind0, kind1) in enumerate(ids.tolist()):
        p = [c[:, None] for c in torch.from_numpy(numbers[i]).unbind(1)]  # [frame, 1] each
        total = torch.zeros(frames, size * size, 3)
        for sample in range(sub * sub):
            sx = (axis + (sample % sub + 0.5) / sub) * (2.0 / size) - 1.0
            sy = 1.0 - (axis + (sample // sub + 0.5) / sub) * (2.0 / size)
            sx, sy = sx.repeat(size)[None], sy.repeat_interleave(size)[None]
            total += torch.stack(ray_colour(sx, sy, floor, backdrop, p[0], p[1], p[2], count,
                                            kind0, *p[4:15], kind1, *p[16:27]), -1)
        out[i] = (total * (255.0 / (sub * sub)) + 0.5).to(torch.uint8).view(frames, size, size, 3)
    return out


def render(scenes, frames=motion.FRAMES, size=motion.SIZE, sub=SAMPLES):
    """Frames of every scene: uint8 [scene, frame, size, size, 3] on the device that rendered them."""
    ids, numbers = pack(scenes, frames)
    if not ON_GPU:
        return _render_torch(ids, numbers, size, sub)
    n = ids.shape[0]
    out = torch.empty(n, frames, size, size, 3, dtype=torch.uint8, device="cuda")
    tile_w, tile_h = 16, 8
    grid = ((size // tile_w) * (size // tile_h), n * frames)
    for start in range(0, n, 1024):  # a grid's second axis ends at 65535
        part = slice(start, start + 1024)
        count = min(1024, n - start)
        _kernel[(grid[0], count * frames)](out[part], torch.from_numpy(ids[part]).cuda(), torch.from_numpy(numbers[part]).cuda(),
                                           frames, SIZE=size, SUB=sub, TILE_W=tile_w, TILE_H=tile_h, num_warps=4)
    return out


def empty_pictures(size=motion.SIZE, sub=SAMPLES):
    """The sixteen backgrounds without a solid: uint8 [floor * 4 + backdrop, size, size, 3]."""
    rng = np.random.default_rng(0)
    scenes = motion.draw_scenes(16, rng, pairs=0.0)
    scenes["floor"], scenes["backdrop"] = np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)
    scenes["lane"] = scenes["lane"] + 1000.0
    scenes["motion"][:] = motion.MOTIONS.index("still")
    return render(scenes, 1, size, sub)[:, 0]
