"""What a clip shows, measured from its pixels.

The camera and the sixteen backgrounds of the world are known, so a solid is whatever is neither background nor a darker or
lighter version of it (a shadow). From the pixels found: how many solids, the colour of each (which of the eight paints, plus some
white for highlights, explains its pixels best), and its motion from path, height and inner change. The kind is left to a small
classifier of cut-out pictures (kind.py). Frames are uint8 [frames, 128, 128, 3].
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from world import motion, render

DIFFERENT = 0.085   # display difference to any shade of the background that makes a pixel part of a solid
SMALLEST = 45       # pixels of the smallest solid
TURNING = 0.010     # mean display change a frame, inside a solid, that means it turns


@dataclass
class Track:
    colour: str
    votes: dict
    motion: str
    boxes: torch.Tensor    # [frames, 4] top, bottom, left, right in pixels; NaN where lost
    centres: torch.Tensor  # [frames, 2] x, y
    masks: torch.Tensor    # bool [frames, 128, 128]
    numbers: dict


@dataclass
class Verdict:
    floor: str
    backdrop: str
    count: int
    tracks: list
    flicker: float  # mean standard deviation over time of still background pixels, in 255ths


class Judge:
    def __init__(self, device="cpu"):
        self.device = torch.device(device)
        self.empty = render.empty_pictures().to(self.device).float() / 255  # [16, h, w, 3], display values
        self.paint = torch.from_numpy(motion.ALBEDO).to(self.device)

    def background(self, display):
        """Index of the empty picture that explains most pixels."""
        some = display[:: max(1, len(display) // 4)]
        miss = (some[:, None] - self.empty[None]).abs().clamp(max=0.12).mean((0, 2, 3, 4))
        return int(miss.argmin())

    def difference(self, display, empty):
        """Largest channel difference to the nearest shade of the background, [frames, h, w]; and that shade's factor."""
        linear, ground = display.square(), empty.square()
        shade = ((linear * ground).sum(-1) / ground.square().sum(-1)).clamp(0.18, 1.15)
        return (display - (shade[..., None] * ground).sqrt()).abs().amax(-1), shade

    def colour_votes(self, display, masks):
        """How strongly each paint is seen in each masked pixel: one-hot times paint strength, [frames, h, w, 8]."""
        p = display.square()
        a2, a1 = self.paint.square().sum(-1), self.paint.sum(-1)
        pa, p1, p2 = p @ self.paint.T, p.sum(-1, keepdim=True), p.square().sum(-1, keepdim=True)
        determinant = 3 * a2 - a1 * a1
        white = (a2 * p1 - a1 * pa) / determinant
        alone = white < 0
        paint = torch.where(alone, pa / a2, (3 * pa - a1 * p1) / determinant).clamp(min=0)
        white = white.clamp(min=0)
        residual = p2 - 2 * (paint * pa + white * p1) + paint.square() * a2 + 2 * paint * white * a1 + 3 * white.square()
        strength, best = residual.min(-1).values, residual.argmin(-1)
        del strength
        hot = F.one_hot(best, len(motion.COLOURS)).float()
        return hot * paint.gather(-1, best[..., None]).clamp(max=1) * masks[..., None]

    @staticmethod
    def components(masks):
        """Label connected pixels of every frame: int [frames, h, w], 0 outside."""
        n, h, w = masks.shape
        labels = torch.arange(1, h * w + 1, device=masks.device, dtype=torch.float32).view(1, h, w) * masks
        while True:
            wider = labels
            for _ in range(16):
                wider = F.max_pool2d(wider.unsqueeze(1), 3, 1, 1).squeeze(1) * masks
            if torch.equal(wider, labels):
                return labels.long()
            labels = wider

    def solids(self, display, empty):
        """Masks of the solids in every frame, largest first: list over frames of bool [h, w] lists."""
        difference, shade = self.difference(display, empty)
        raw = (difference > DIFFERENT).float()
        masks = F.avg_pool2d(raw.unsqueeze(1), 3, 1, 1).squeeze(1) > 0.5
        labels = self.components(masks)
        found = []
        for frame in labels:
            values, counts = frame[frame > 0].unique(return_counts=True)
            order = counts.argsort(descending=True)
            found.append([frame == values[i] for i in order.tolist() if counts[i] >= SMALLEST])
        return found, masks, shade

    def follow(self, found, count):
        """Masks of `count` solids through time, bool [count, frames, h, w]; empty where a solid is lost."""
        shape = next(m for masks in found for m in masks).shape
        result = torch.zeros(count, len(found), *shape, dtype=torch.bool, device=self.device)
        last = [None] * count

        def centre(mask):
            return mask.nonzero().float().mean(0)

        start = next((i for i, masks in enumerate(found) if len(masks) >= count), 0)
        for k, mask in enumerate(sorted(found[start][:count], key=lambda m: float(centre(m)[1]))):
            last[k] = centre(mask)
        for i, masks in enumerate(found):
            left = [(mask, centre(mask)) for mask in masks[:count]]
            pairs = sorted((float((c - last[k]).norm()), k, j) for j, (_, c) in enumerate(left) for k in range(count)
                           if last[k] is not None)
            used_k, used_j = set(), set()
            for _, k, j in pairs:
                if k not in used_k and j not in used_j:
                    result[k, i], last[k] = left[j][0], left[j][1]
                    used_k.add(k)
                    used_j.add(j)
        return result

    @staticmethod
    def measure(masks):
        """Boxes [frames, 4] and centres [frames, 2] of masks [frames, h, w]."""
        boxes, centres = [], []
        for mask in masks.cpu():
            rows, columns = (mask.sum(1) >= 2).nonzero(), (mask.sum(0) >= 2).nonzero()
            if len(rows) == 0 or len(columns) == 0:
                boxes.append(torch.full((4,), float("nan")))
                centres.append(torch.full((2,), float("nan")))
                continue
            boxes.append(torch.tensor([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]).float())
            centres.append(mask.nonzero().float().mean(0).flip(0) + 0.5)
        return torch.stack(boxes), torch.stack(centres)

    @staticmethod
    def turning(display, masks):
        """Mean change a frame of pixels well inside a solid."""
        inner = F.avg_pool2d(masks.float().unsqueeze(1), 5, 1, 2).squeeze(1) > 0.99
        both = inner[1:] & inner[:-1]
        change = (display[1:] - display[:-1]).abs().mean(-1)
        return float((change * both).sum() / both.sum().clamp(min=1))

    def motion(self, display, masks, boxes, centres):
        """(name of the motion, the numbers it was decided by)."""
        seen = ~boxes[:, 0].isnan()
        if seen.sum() < 6:
            return "lost", {}
        boxes, centres = boxes[seen], centres[seen]
        ends = [(boxes[:3].mean(0), centres[:3].mean(0)), (boxes[-3:].mean(0), centres[-3:].mean(0))]
        (box0, centre0), (box1, centre1) = ends
        height0, height1 = float(box0[1] - box0[0]), float(box1[1] - box1[0])
        ratio = height1 / max(height0, 1)
        dx, dbottom = float(centre1[0] - centre0[0]), float(box1[1] - box0[1])
        middle = (boxes[:, 2] + boxes[:, 3]) / 2
        span_x = float(middle.max() - middle.min())
        bottom = boxes[:, 1]
        span_b = float(bottom.max() - bottom.min())
        high = bottom < bottom.min() + 0.4 * span_b
        low = bottom > bottom.max() - 0.3 * span_b
        hops, up = 0, False
        for h, lo in zip(high.tolist(), low.tolist()):
            if h:
                up = True
            elif lo and up:
                hops, up = hops + 1, False
        turning = self.turning(display, masks)
        n = dict(ratio=ratio, dx=dx, dbottom=dbottom, span_x=span_x, span_b=span_b, hops=hops, turning=turning,
                 height=(height0 + height1) / 2)
        mean_height = n["height"]
        grown = height1 - height0
        if (ratio > 1.27 or ratio < 0.79) and abs(dx) < 0.75 * abs(grown) + 12:
            by_depth = dbottom / grown > 0.55
            if ratio > 1:
                return ("nearer" if by_depth else "grow"), n
            return ("away" if by_depth else "shrink"), n
        if hops >= 2 and span_b > 0.3 * mean_height and span_x < 0.6 * span_b:
            return "bounce", n
        if span_x > 9 and abs(dx) < 0.5 * span_x:
            return "circle", n
        if abs(dx) > 8 and abs(dx) > abs(dbottom):
            return ("right" if dx > 0 else "left"), n
        if abs(dbottom) > 9:
            return ("sink" if dbottom > 0 else "rise"), n
        return ("spin" if turning > TURNING else "still"), n

    def flicker(self, display, masks, shade):
        """Standard deviation over time of pixels that no solid or shadow comes near, in 255ths."""
        busy = masks.any(0) | (F.avg_pool2d(shade.unsqueeze(1), 5, 1, 2).squeeze(1) < 0.9).any(0)
        busy = F.max_pool2d(busy.float()[None, None], 17, 1, 8)[0, 0] > 0
        still = display.std(0).mean(-1)[~busy]
        return float(still.mean() * 255) if still.numel() else float("nan")

    @torch.no_grad()
    def look(self, frames):
        display = frames.to(self.device).float() / 255
        which = self.background(display)
        empty = self.empty[which]
        found, masks, shade = self.solids(display, empty)
        numbers = torch.tensor([len(m) for m in found])
        count = int(numbers.float().median().round()) if len(numbers) else 0
        tracks = []
        if count > 0:
            followed = self.follow(found, min(count, 2))
            votes = self.colour_votes(display, masks)
            for k in range(followed.shape[0]):
                total = (votes * followed[k][..., None]).sum((0, 1, 2))
                share = (total / total.sum().clamp(min=1e-6)).tolist()
                boxes, centres = self.measure(followed[k])
                name, n = self.motion(display, followed[k], boxes, centres)
                tracks.append(Track(motion.COLOURS[int(total.argmax())], dict(zip(motion.COLOURS, share)), name, boxes, centres,
                                    followed[k], n))
        return Verdict(motion.FLOORS[which // 4], motion.BACKDROPS[which % 4], count, tracks,
                       self.flicker(display, masks, shade))


def match(verdict, wanted):
    """Pair the solids asked for with those found, best colours first: list of (wanted, Track or None)."""
    left, pairs = list(verdict.tracks), []
    for solid in sorted(wanted, key=lambda s: -max((t.votes[s["colour"]] for t in left), default=0)):
        best = max(left, key=lambda t: t.votes[solid["colour"]], default=None)
        if best is not None:
            left.remove(best)
        pairs.append((solid, best))
    return pairs


def compare(verdict, wanted, kinds=None):
    """Which of count, colour, motion (and kind, if `kinds` names it for each track) are as asked: dict of bool."""
    pairs = match(verdict, wanted)
    result = {
        "count": verdict.count == len(wanted),
        "colour": all(t is not None and t.colour == s["colour"] for s, t in pairs),
        "motion": all(t is not None and t.motion == s["motion"] for s, t in pairs),
    }
    if kinds is not None:
        named = {id(t): kind for t, kind in zip(verdict.tracks, kinds)}
        result["kind"] = all(t is not None and named[id(t)] == s["kind"] for s, t in pairs)
    return result


def wanted(scenes, index):
    """What a scene's prompt asks for, as plain data."""
    return [{"kind": motion.KINDS[scenes["kind"][index, k]], "colour": motion.COLOURS[scenes["colour"][index, k]],
             "motion": motion.MOTIONS[scenes["motion"][index, k]]} for k in range(int(scenes["solids"][index]))]
