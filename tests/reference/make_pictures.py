"""Writes tests/data/pictures: small pictures of many kinds, and what Pillow 13 makes of them in expected.safetensors.

Needs Pillow, numpy and safetensors: python tests/reference/make_pictures.py
"""
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "pictures"
expected = {}


def photo(width, height, seed=0):
    """Waves of colour, noise, and a rectangle with hard edges."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.full((height, width, 3), 128.0) + random.normal(0, 6, (height, width, 3))
    for channel in range(3):
        for _ in range(6):
            fx, fy, phase = random.uniform(-.25, .25), random.uniform(-.25, .25), random.uniform(0, 6.28)
            pixels[..., channel] += np.sin(fx * x + fy * y + phase) * random.uniform(10, 40)
    pixels[height // 3:height // 3 + height // 4, width // 3:width // 3 + width // 4] = [230, 20, 30]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def transparent(width, height):
    picture = photo(width, height, 3).convert("RGBA")
    picture.putalpha(Image.fromarray(np.random.default_rng(4).integers(0, 256, (height, width), dtype=np.uint8)))
    return picture


def save(name, picture, **options):
    picture.save(OUT / name, **options)
    expected[name] = np.array(ImageOps.exif_transpose(Image.open(OUT / name)).convert("RGB"))


def png16(name, pixels, colour_type):
    """PNG of 16 bits, which Pillow does not write. What counts is the upper byte of each sample."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (OUT / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
                             + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    upper = (pixels >> 8).astype(np.uint8).reshape(height, width, -1)
    expected[name] = np.ascontiguousarray(upper[..., :3] if upper.shape[2] >= 3 else np.repeat(upper[..., :1], 3, axis=2))


OUT.mkdir(parents=True, exist_ok=True)
small = photo(33, 21)
for sampling in range(3):
    save("sampling%d.jpg" % sampling, small, quality=90, subsampling=sampling)
double = OUT / "extra.jpg"
save("extra.jpg", small, quality=90)
double.write_bytes(double.read_bytes() + (OUT / "sampling0.jpg").read_bytes())
(OUT / "cut.jpg").write_bytes((OUT / "sampling0.jpg").read_bytes()[:-200])
save("progressive.jpg", small, quality=80, progressive=True)
save("grey.jpg", small.convert("L"), quality=90)
save("cmyk.jpg", small.convert("CMYK"), quality=95)
save("narrow.jpg", photo(3, 40), quality=90, subsampling=2)
save("one.jpg", photo(1, 1))
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = orientation
    save("turned%d.jpg" % orientation, photo(24, 16), exif=exif.tobytes(), quality=95, subsampling=0)
exif = Image.Exif()
exif[0x112] = 6
save("turned.png", photo(24, 16), exif=exif.tobytes())
save("turned.webp", photo(24, 16), exif=exif.tobytes(), lossless=True)
save("turned.tif", photo(24, 16), exif=exif)
save("rgb.png", small)
save("rgba.png", transparent(19, 13))
save("grey_alpha.png", transparent(19, 13).convert("LA"))
save("grey.png", small.convert("L"))
save("palette.png", small.quantize(17))
save("palette2.png", small.quantize(4))
save("palette_transparent.png", small.quantize(40), transparency=3)
save("bits.png", small.convert("1"))
random = np.random.default_rng(1)
png16("rgb16.png", random.integers(0, 65536, (9, 11, 3)), 2)
png16("rgba16.png", random.integers(0, 65536, (9, 11, 4)), 6)
png16("grey16.png", random.integers(0, 65536, (9, 11)), 0)
png16("grey_alpha16.png", random.integers(0, 65536, (9, 11, 2)), 4)
save("lossy.webp", small, quality=90)
save("lossless.webp", small, lossless=True)
save("alpha.webp", transparent(19, 13), lossless=True)
save("plain.gif", small.quantize(40))
save("animated.gif", small.quantize(40), save_all=True, append_images=[photo(33, 21, 5).quantize(40)])
save("animated.png", small, save_all=True, append_images=[photo(33, 21, 5)])
save("plain.bmp", small)
save("plain.ppm", small)
save("lzw.tif", small, compression="tiff_lzw")

source = photo(99, 67)
source.save(OUT / "source.png")
tall = photo(7, 150)
tall.save(OUT / "tall.png")
for name, picture, sizes in (("source.png", source, [(40, 30), (150, 111), (99, 30), (17, 67), (99, 67), (1, 1), (64, 20)]),
                             ("tall.png", tall, [(30, 13), (14, 300), (3, 149)])):
    for width, height in sizes:
        for filter_name, kind in (("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)):
            expected["%s %s %dx%d" % (filter_name, name, width, height)] = np.array(picture.resize((width, height), kind))
save_file(expected, OUT / "expected.safetensors")
