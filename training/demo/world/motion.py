"""What happens in a clip, as numbers: drawing a scene, and where its solids are in every frame.

A batch of scenes is a dict of numpy arrays; axis 0 is the scene, axis 1 (where there is one) the solid. The camera, the lamp's
height and the backgrounds never change, so that a judge knows the empty picture.
"""
import numpy as np

KINDS = ("ball", "cube", "cylinder", "cone", "ring", "star")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
FLOORS = ("wooden", "checkered", "white", "black")
BACKDROPS = ("grey", "night", "sky", "cream")
MOTIONS = ("left", "right", "nearer", "away", "bounce", "rise", "sink", "spin", "circle", "grow", "shrink", "still")

ALBEDO = np.array([(0.78, 0.025, 0.03), (0.92, 0.26, 0.012), (0.90, 0.66, 0.02), (0.035, 0.46, 0.05),
                   (0.02, 0.60, 0.66), (0.02, 0.08, 0.78), (0.26, 0.03, 0.58), (0.92, 0.22, 0.46)], np.float32)
FOOT = np.array([1.0, 0.80, 0.98, 1.0, 0.98, 0.839], np.float32)  # centre's height above the floor for a solid of size 1
ROLLING = np.array([True, False, False, False, True, False])

FRAMES, FPS, SIZE = 33, 16, 128


def draw_scenes(count, rng, pairs=0.4):
    """Draw `count` scenes with numpy generator `rng`; a share `pairs` of them has two solids, always of different colours."""
    n = count
    solids = 1 + (rng.random(n) < pairs)
    kind = rng.integers(0, len(KINDS), (n, 2))
    colour = rng.integers(0, len(COLOURS), (n, 2))
    colour[:, 1] = (colour[:, 0] + rng.integers(1, len(COLOURS), n)) % len(COLOURS)
    motion = rng.integers(0, len(MOTIONS), (n, 2))
    shared = rng.random(n) < 0.3
    motion[shared, 1] = motion[shared, 0]
    rolls = ROLLING[kind] & (motion <= 1) & (rng.random((n, 2)) < 0.6)
    two = (solids == 2)[:, None]
    side = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    lane = np.where(two, np.stack([side, -side], 1) * 1.22, 0.0)
    return {
        "solids": solids, "floor": rng.integers(0, len(FLOORS), n), "backdrop": rng.integers(0, len(BACKDROPS), n),
        "lamp": rng.uniform(-0.75, 0.75, n), "kind": kind, "colour": colour, "motion": motion, "rolls": rolls,
        "lane": lane,
        "shift": np.where(two, rng.uniform(-0.06, 0.06, (n, 2)), rng.uniform(-0.35, 0.35, (n, 2))),
        "depth": rng.uniform(-0.5, 0.2, (n, 2)),
        "size": np.where(two, rng.uniform(0.48, 0.55, (n, 2)), rng.uniform(0.62, 0.78, (n, 2))),
        "yaw": rng.uniform(-0.45, 0.45, (n, 2)), "reach": rng.uniform(0.0, 1.0, (n, 2)),
        "ease": rng.uniform(0.0, 0.8, (n, 2)), "turn": np.where(rng.random((n, 2)) < 0.5, -1.0, 1.0),
        "phase": rng.uniform(0.0, 2 * np.pi, (n, 2)),
    }


def select(scenes, index):
    """The scenes at `index` (a slice or array)."""
    return {name: value[index] for name, value in scenes.items()}


def animate(scenes, frames=FRAMES):
    """Placement of every solid: float32 [scene, frame, solid, 8] = x, y, z, size, cos and sin of yaw, cos and sin of roll."""
    s = {name: value[:, None] for name, value in scenes.items()}  # [scene, 1, solid]
    u = (np.arange(frames) / (FRAMES - 1.0))[None, :, None]
    eased = u + s["ease"] * (u * u * (3 - 2 * u) - u)
    two = (s["solids"] == 2)[..., None]
    motion = s["motion"]

    def is_(name):
        return motion == MOTIONS.index(name)

    def amount(low1, high1, low2, high2):
        """A range for a solid that is alone and one for a solid in its own half, blended by `reach`."""
        return np.where(two, low2 + (high2 - low2) * s["reach"], low1 + (high1 - low1) * s["reach"])

    sideways = amount(0.95, 1.40, 0.42, 0.52) * (2 * eased - 1)
    x = s["lane"] + np.where(is_("left") | is_("right"), 0.3, 1.0) * s["shift"]
    x = x + np.where(is_("right"), sideways, 0) - np.where(is_("left"), sideways, 0)
    inwards = amount(1.5, 2.1, 1.3, 1.6) * (2 * eased - 1)
    along = is_("nearer") | is_("away")
    z = np.where(along, -0.35, s["depth"]) + np.where(is_("nearer"), inwards, 0) - np.where(is_("away"), inwards, 0)
    radius = amount(0.85, 1.10, 0.40, 0.48)
    angle = s["phase"] + s["turn"] * 2 * np.pi * u
    x = x + np.where(is_("circle"), radius * np.sin(angle), 0)
    z = z + np.where(is_("circle"), radius * np.cos(angle) + 0.1, 0)
    first, last = 0.52, 1.28 + 0.2 * s["reach"]
    grown = first + (last - first) * eased
    size = s["size"] * np.where(is_("grow"), grown, np.where(is_("shrink"), first + last - grown, 1.0))
    hop = (2.0 + (s["reach"] > 0.5)) * u
    hop = hop - np.floor(hop)
    height = amount(1.05, 1.40, 0.95, 1.30)
    y = size * FOOT[s["kind"]]  # [scene, frame, solid]
    y = y + np.where(is_("bounce"), amount(0.75, 1.15, 0.70, 1.0) * 4 * hop * (1 - hop), 0)
    y = y + np.where(is_("rise"), height * eased, 0) + np.where(is_("sink"), height * (1 - eased), 0)
    yaw = s["yaw"] + np.where(is_("spin"), s["turn"] * 2 * np.pi * (0.92 + 0.16 * s["reach"]) * u, 0)
    roll = np.where(s["rolls"], -(x - s["lane"]) / s["size"], 0.0)
    parts = [x, y, z, size, np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    return np.stack([np.broadcast_to(part, shape) for part in parts], -1).astype(np.float32)


def lamp_direction(scenes):
    """Unit vectors [scene, 3] towards the lamp."""
    a = scenes["lamp"]
    v = np.stack([np.sin(a) * 0.75, np.full_like(a, 1.15), np.cos(a) * 0.75], -1)
    return (v / np.linalg.norm(v, axis=-1, keepdims=True)).astype(np.float32)
