"""Geometry and light of the world, one ray at a time (see language.py for why it is written with `tl`).

Right-handed coordinates: x to the right, y up, z towards the camera; the floor is y = 0 and the backdrop a wall at z = -4.2.
A solid is a signed distance function in its own frame, where it has about unit radius. Colours are linear until the last step.
`kind`, `floor` and `backdrop` are the same for a whole picture, so branches on them cost nothing.
"""
from .language import jit, tl


@jit
def smooth(edge0, edge1, x):
    t = tl.minimum(tl.maximum((x - edge0) / (edge1 - edge0), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@jit
def star_distance(x, y):
    """Five-pointed star in the plane, one point up, outer radius 1: folded into one tenth, then the distance to one edge."""
    px = tl.abs(x)
    py = y
    # Mirror lines at 36 and 144 degrees.
    k = tl.maximum(0.809016994 * px - 0.587785252 * py, 0.0)
    px = px - 2.0 * k * 0.809016994
    py = py + 2.0 * k * 0.587785252
    k = tl.maximum(-0.809016994 * px - 0.587785252 * py, 0.0)
    px = px + 2.0 * k * 0.809016994
    py = py + 2.0 * k * 0.587785252
    px = tl.abs(px)
    py = py - 1.0
    # Edge from the tip (0, 1) towards the inner corner at radius 0.46.
    ex = 0.270385  # 0.46 * sin(36 deg)
    ey = -0.627852  # 0.46 * cos(36 deg) - 1
    h = tl.minimum(tl.maximum((px * ex + py * ey) / (ex * ex + ey * ey), 0.0), 1.0)
    dx = px - ex * h
    dy = py - ey * h
    return tl.sqrt(dx * dx + dy * dy) * tl.where(py * ex - px * ey > 0.0, 1.0, -1.0)


@jit
def solid_distance(kind, x, y, z):
    """Signed distance to the solid `kind` in its own frame."""
    d = x * 0.0
    if kind == 0:  # ball
        d = tl.sqrt(x * x + y * y + z * z) - 1.0
    elif kind == 1:  # cube
        qx = tl.abs(x) - 0.74
        qy = tl.abs(y) - 0.74
        qz = tl.abs(z) - 0.74
        ax = tl.maximum(qx, 0.0)
        ay = tl.maximum(qy, 0.0)
        az = tl.maximum(qz, 0.0)
        d = tl.sqrt(ax * ax + ay * ay + az * az) + tl.minimum(tl.maximum(qx, tl.maximum(qy, qz)), 0.0) - 0.06
    elif kind == 2:  # cylinder, upright
        qx = tl.sqrt(x * x + z * z) - 0.66
        qy = tl.abs(y) - 0.94
        ax = tl.maximum(qx, 0.0)
        ay = tl.maximum(qy, 0.0)
        d = tl.sqrt(ax * ax + ay * ay) + tl.minimum(tl.maximum(qx, qy), 0.0) - 0.04
    elif kind == 3:  # cone: radius 0.96 at y = -1, point at y = 1
        q = tl.sqrt(x * x + z * z)
        side = (q * 2.0 + (y - 1.0) * 0.96) * 0.450765  # / sqrt(2^2 + 0.96^2)
        d = tl.maximum(side, -1.0 - y)
    elif kind == 4:  # ring, standing, its hole towards the camera
        q = tl.sqrt(x * x + y * y) - 0.72
        d = tl.sqrt(q * q + z * z) - 0.26
    else:  # star prism, standing
        qx = star_distance(x, y)
        qy = tl.abs(z) - 0.30
        ax = tl.maximum(qx, 0.0)
        ay = tl.maximum(qy, 0.0)
        d = tl.sqrt(ax * ax + ay * ay) + tl.minimum(tl.maximum(qx, qy), 0.0) - 0.03
    return d


@jit
def placed_distance(kind, x, y, z, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll):
    """Signed distance in the world: turned back by yaw (about y), then by roll (about z), and scaled."""
    x = (x - cx) / size
    y = (y - cy) / size
    z = (z - cz) / size
    lx = x * cos_yaw - z * sin_yaw
    lz = x * sin_yaw + z * cos_yaw
    mx = lx * cos_roll + y * sin_roll
    my = y * cos_roll - lx * sin_roll
    return solid_distance(kind, mx, my, lz) * size


@jit
def sphere_span(ox, oy, oz, dx, dy, dz, cx, cy, cz, radius):
    """Where a ray enters and leaves a sphere; (1e9, -1e9) if it misses."""
    x = ox - cx
    y = oy - cy
    z = oz - cz
    b = x * dx + y * dy + z * dz
    disc = b * b - (x * x + y * y + z * z - radius * radius)
    root = tl.sqrt(tl.maximum(disc, 0.0))
    near = tl.where(disc > 0.0, tl.maximum(-b - root, 0.0), 1e9)
    far = tl.where(disc > 0.0, -b + root, -1e9)
    return near, far


@jit
def march(kind, ox, oy, oz, dx, dy, dz, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll):
    """Distance along the ray to one solid, 1e9 where it is missed."""
    near, far = sphere_span(ox, oy, oz, dx, dy, dz, cx, cy, cz, size * 1.36)
    t = near
    inside = far > near
    if tl.max(tl.where(inside, 1, 0)) > 0:
        for _ in range(36):
            d = placed_distance(kind, ox + dx * t, oy + dy * t, oz + dz * t, cx, cy, cz, size,
                                cos_yaw, sin_yaw, cos_roll, sin_roll)
            t = tl.where(inside & (t < far), t + d * 0.92, t)
        d = placed_distance(kind, ox + dx * t, oy + dy * t, oz + dz * t, cx, cy, cz, size,
                            cos_yaw, sin_yaw, cos_roll, sin_roll)
        t = tl.where(inside & (t < far) & (d < 0.012), t, 1e9)
    else:
        t = t * 0.0 + 1e9
    return t


@jit
def shadow(kind, ox, oy, oz, lx, ly, lz, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll):
    """How much of a wide lamp in direction l one solid leaves to a point: 1 lit, 0 dark, soft between."""
    near, far = sphere_span(ox, oy, oz, lx, ly, lz, cx, cy, cz, size * 1.9)
    inside = far > near
    light = near * 0.0 + 1.0
    if tl.max(tl.where(inside, 1, 0)) > 0:
        t = tl.where(inside, near + 0.01, 0.01)
        for _ in range(20):
            d = placed_distance(kind, ox + lx * t, oy + ly * t, oz + lz * t, cx, cy, cz, size,
                                cos_yaw, sin_yaw, cos_roll, sin_roll)
            light = tl.where(inside & (t < far), tl.minimum(light, 0.5 + 5.0 * d / (t + 0.35)), light)
            t = t + tl.minimum(tl.maximum(d, 0.03), 0.25)
        light = smooth(0.0, 1.0, light)
    return light


@jit
def occlusion(kind, x, y, z, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll):
    """Darkening of the floor close under a solid."""
    d = placed_distance(kind, x, y, z, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll)
    return 0.45 + 0.55 * smooth(-0.02, 0.42, d)


@jit
def floor_albedo(floor, x, z, depth):
    """Colour of the floor; patterns fade with distance so that they never alias."""
    fade = smooth(11.0, 5.0, depth)
    r = x * 0.0 + 0.72
    g = x * 0.0 + 0.72
    b = x * 0.0 + 0.70
    if floor == 0:  # wooden: planks along z
        plank = tl.floor(x * 1.6)
        tone = tl.sin(plank * 12.9898) * 43.7
        tone = tone - tl.floor(tone)
        seam = x * 1.6 - plank
        seam = smooth(0.0, 0.06, tl.minimum(seam, 1.0 - seam))
        grain = tl.sin(x * 31.0 + tl.sin(z * 1.3 + plank * 4.0) * 1.7)
        k = 0.84 + 0.26 * tone + 0.045 * grain * fade
        k = k * (1.0 - 0.35 * fade * (1.0 - seam))
        r = 0.37 * k
        g = 0.225 * k
        b = 0.125 * k
    elif floor == 1:  # checkered
        w = 0.012 * depth * 0.35
        u = x * 1.1 - tl.floor(x * 1.1)
        v = z * 1.1 - tl.floor(z * 1.1)
        u = smooth(0.25 - w, 0.25 + w, tl.abs(u - 0.5))
        v = smooth(0.25 - w, 0.25 + w, tl.abs(v - 0.5))
        k = u + v - 2.0 * u * v
        k = 0.5 + (k - 0.5) * fade
        r = 0.24 + 0.30 * k
        g = 0.24 + 0.30 * k
        b = 0.26 + 0.30 * k
    elif floor == 2:  # white
        k = 0.74 + 0.02 * tl.sin(x * 1.7) * tl.sin(z * 1.9)
        r = k
        g = k
        b = k * 0.985
    else:  # black
        k = 0.035 + 0.004 * tl.sin(x * 2.3 + z)
        r = k
        g = k * 1.04
        b = k * 1.22
    return r, g, b


@jit
def backdrop_colour(backdrop, x, y):
    """Colour of the wall as it looks, light included: a gradient upwards and a pool of light in the middle."""
    up = smooth(0.0, 5.0, y)
    pool = tl.exp(-(x * x * 0.05 + (y - 2.0) * (y - 2.0) * 0.09))
    r = x * 0.0
    g = x * 0.0
    b = x * 0.0
    if backdrop == 0:  # grey
        k = 0.20 + 0.26 * pool
        r = k
        g = k
        b = k * 1.02
    elif backdrop == 1:  # night
        r = 0.010 + 0.018 * pool
        g = 0.014 + 0.022 * pool
        b = 0.040 + 0.050 * pool
    elif backdrop == 2:  # sky
        r = 0.74 - 0.36 * up
        g = 0.80 - 0.24 * up
        b = 0.88 - 0.04 * up
    else:  # cream
        k = 0.52 + 0.26 * pool
        r = k
        g = k * 0.86
        b = k * 0.63
    return r, g, b


@jit
def background(floor, backdrop, ox, oy, oz, dx, dy, dz):
    """Where a ray meets floor or wall (distance), whether it is the floor, and the colour without any solid, ambient apart."""
    t_floor = tl.where(dy < -1e-4, -oy / tl.minimum(dy, -1e-4), 1e9)
    t_wall = tl.where(dz < -1e-4, (-4.2 - oz) / tl.minimum(dz, -1e-4), 1e9)
    is_floor = t_floor < t_wall
    t = tl.minimum(t_floor, t_wall)
    x = ox + dx * t
    y = oy + dy * t
    z = oz + dz * t
    fr, fg, fb = floor_albedo(floor, x, z, t)
    br, bg, bb = backdrop_colour(backdrop, x, y)
    # The floor darkens towards the foot of the wall and towards the picture's sides.
    foot = 0.62 + 0.38 * smooth(-4.2, -2.2, z)
    side = 1.0 - 0.035 * (x * x + z * z * 0.3)
    k = foot * tl.maximum(side, 0.4)
    foot_wall = 0.70 + 0.30 * smooth(0.0, 1.1, y)
    r = tl.where(is_floor, fr * k, br * foot_wall)
    g = tl.where(is_floor, fg * k, bg * foot_wall)
    b = tl.where(is_floor, fb * k, bb * foot_wall)
    return t, is_floor, x, y, z, r, g, b


@jit
def shade_solid(kind, red, green, blue, ox, oy, oz, dx, dy, dz, t, lx, ly, lz,
                cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll):
    """Colour of a solid where the ray meets it: two tones, lamp, sky and floor light, highlight, rim."""
    x = ox + dx * t
    y = oy + dy * t
    z = oz + dz * t
    e = 0.004
    # Normal by four taps at the corners of a tetrahedron.
    a = placed_distance(kind, x + e, y - e, z - e, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll)
    b = placed_distance(kind, x - e, y - e, z + e, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll)
    c = placed_distance(kind, x - e, y + e, z - e, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll)
    d = placed_distance(kind, x + e, y + e, z + e, cx, cy, cz, size, cos_yaw, sin_yaw, cos_roll, sin_roll)
    nx = a - b - c + d
    ny = -a - b + c + d
    nz = -a + b - c + d
    inv = 1.0 / tl.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    nx = nx * inv
    ny = ny * inv
    nz = nz * inv
    # Two tones in quadrants around the solid's axis, so that turning can be seen.
    px = (x - cx) / size
    py = (y - cy) / size
    pz = (z - cz) / size
    qx = px * cos_yaw - pz * sin_yaw
    qz = px * sin_yaw + pz * cos_yaw
    mx = qx * cos_roll + py * sin_roll
    my = py * cos_roll - qx * sin_roll
    other = qz
    if kind >= 4:
        other = my
    tone = 0.52 + 0.48 * smooth(-0.035, 0.035, mx * other)
    lamp = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0)
    wrap = tl.maximum((nx * lx + ny * ly + nz * lz) * 0.5 + 0.5, 0.0)
    sky = 0.5 + 0.5 * ny
    near_floor = 0.55 + 0.45 * smooth(0.0, 0.9, y / size)
    light = 0.82 * lamp + (0.18 * wrap + 0.20 * sky + 0.07) * near_floor
    hx = lx - dx
    hy = ly - dy
    hz = lz - dz
    inv = 1.0 / tl.sqrt(hx * hx + hy * hy + hz * hz)
    s = tl.maximum((nx * hx + ny * hy + nz * hz) * inv, 0.0)
    s = s * s
    s = s * s
    s = s * s
    s = s * s
    s = s * s  # power 32
    facing = 1.0 + (nx * dx + ny * dy + nz * dz)
    rim = tl.maximum(facing, 0.0)
    rim = rim * rim * rim
    gloss = 0.34 * s + 0.10 * rim * sky
    return red * tone * light + gloss, green * tone * light + gloss, blue * tone * light + gloss


@jit
def to_display(v):
    """Linear light to a display value, gamma 2."""
    return tl.sqrt(tl.minimum(tl.maximum(v, 0.0), 1.0) + 1e-6)


@jit
def ray_colour(sx, sy, floor, backdrop, lx, ly, lz, count,
               kind0, r0, g0, b0, x0, y0, z0, s0, cy0, sy0, cr0, sr0,
               kind1, r1, g1, b1, x1, y1, z1, s1, cy1, sy1, cr1, sr1):
    """Display colour at screen position (sx, sy), both -1..1 with y up."""
    # Camera at (0, 1.75, 6.2), looking at (0, 0.85, 0), half width 0.385 at distance 1.
    dx = sx * 0.385
    dy = sy * 0.385 * 0.989627 - 0.143656
    dz = -0.989627 - sy * 0.385 * 0.143656
    inv = 1.0 / tl.sqrt(dx * dx + dy * dy + dz * dz)
    dx = dx * inv
    dy = dy * inv
    dz = dz * inv
    ox = dx * 0.0
    oy = ox + 1.75
    oz = ox + 6.2
    t, is_floor, px, py, pz, r, g, b = background(floor, backdrop, ox, oy, oz, dx, dy, dz)
    lit = shadow(kind0, px, py, pz, lx, ly, lz, x0, y0, z0, s0, cy0, sy0, cr0, sr0)
    dark = occlusion(kind0, px, py, pz, x0, y0, z0, s0, cy0, sy0, cr0, sr0)
    if count > 1:
        lit = tl.minimum(lit, shadow(kind1, px, py, pz, lx, ly, lz, x1, y1, z1, s1, cy1, sy1, cr1, sr1))
        dark = dark * occlusion(kind1, px, py, pz, x1, y1, z1, s1, cy1, sy1, cr1, sr1)
    lit = tl.where(is_floor, lit, 0.5 + 0.5 * lit)
    k = (0.42 + 0.58 * lit) * tl.where(is_floor, dark, 1.0)
    r = r * k
    g = g * k
    b = b * k
    hit = march(kind0, ox, oy, oz, dx, dy, dz, x0, y0, z0, s0, cy0, sy0, cr0, sr0)
    cr, cg, cb = shade_solid(kind0, r0, g0, b0, ox, oy, oz, dx, dy, dz, tl.minimum(hit, 20.0), lx, ly, lz,
                             x0, y0, z0, s0, cy0, sy0, cr0, sr0)
    seen = hit < t
    r = tl.where(seen, cr, r)
    g = tl.where(seen, cg, g)
    b = tl.where(seen, cb, b)
    if count > 1:
        t = tl.minimum(t, hit)
        hit = march(kind1, ox, oy, oz, dx, dy, dz, x1, y1, z1, s1, cy1, sy1, cr1, sr1)
        cr, cg, cb = shade_solid(kind1, r1, g1, b1, ox, oy, oz, dx, dy, dz, tl.minimum(hit, 20.0), lx, ly, lz,
                                 x1, y1, z1, s1, cy1, sy1, cr1, sr1)
        seen = hit < t
        r = tl.where(seen, cr, r)
        g = tl.where(seen, cg, g)
        b = tl.where(seen, cb, b)
    return to_display(r), to_display(g), to_display(b)
