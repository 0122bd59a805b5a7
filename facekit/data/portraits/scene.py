"""What surrounds the face: backdrop, hair, neck, clothes, ears, glasses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from facekit.data.portraits.canvas import Canvas, Patch, Pixels, rgb, smoothstep, squircle, value_noise
from facekit.data.portraits.features import SIDES, Anatomy

# Light that enters the skin comes out redder: how much of its green and blue a shadow loses.
RED_SHADOW = rgb(0.0, 0.26, 0.38)


def backdrop(canvas: Canvas, face: Anatomy) -> None:
    """A wall, a colour gradient, or a room out of focus."""
    sitting, axis = face.sitting, canvas.axis
    first, second = sitting.backdrop
    draws = sitting.textures
    blobs = draws.noise(6, 6)
    slope_x, slope_y = draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5)
    if sitting.backdrop_kind == "plain":
        mix = np.float32(0.12) * value_noise(blobs, canvas.size, canvas.size)
    elif sitting.backdrop_kind == "gradient":
        mix = np.add.outer(axis * np.float32(slope_y), axis * np.float32(slope_x)) + np.float32(0.5)
    else:
        mix = np.clip(np.float32(0.5) + np.float32(0.6) * value_noise(blobs, canvas.size, canvas.size), 0, 1)
    for plane, start, way in zip(canvas.image, first, second - first, strict=True):
        np.multiply(mix, way, out=plane)
        plane += start


def hair_texture(canvas: Canvas, face: Anatomy, patch: Patch) -> tuple[Pixels, Pixels]:
    """Strands (curly hair: tufts) as noise in -1 … 1, and the shine where the skull faces the light."""
    curl = min(face.person.curl, 1.0)
    rows, columns = (7, 52) if curl < 0.35 else (30, 34)
    strands = value_noise(face.sitting.textures.noise(rows, columns), *patch.u.shape)
    light = face.sitting.light.direction
    band = patch.v + np.float32(0.55) + np.float32(0.25) * patch.u * patch.u
    shine = np.clip(1 - band * band * 9, 0, 1) * np.clip(1 + np.float32(light[0]) * patch.u, 0, 2)
    return strands, shine * np.float32(1 - 0.6 * curl)


def hair_colours(face: Anatomy, patch: Patch, strands: Pixels, shine: Pixels, dim: float = 1.0) -> Iterator[Pixels]:
    """Red, green, blue: strands lighter and darker than the hair's colour; darker to the sides, away from the lamp."""
    light, contrast = face.sitting.light, 0.30 - 0.12 * min(face.person.curl, 1.0)
    side = np.clip(np.float32(0.98) - np.float32(0.36) * patch.u * patch.u, 0.4, 1)
    side = side * (1 + np.float32(0.22 * light.direction[0]) * patch.u)
    glow = side * (1 + np.float32(contrast) * strands)
    shine = shine * (np.float32(0.10 * dim) + np.float32(0.05 * dim) * strands)
    return (glow * part + shine for part in face.sitting.hairstyle.colour * np.float32(dim))


def hair_outline(x: Pixels, y: Pixels, width: float, height: float, flare: float) -> Pixels:
    """Signed distance, roughly, to a dome of these half-sizes above y = 0, and below it to sides that move outwards."""
    u, v = x * np.float32(1 / width), np.minimum(y, 0) * np.float32(1 / height)
    return squircle(u, v, 0.25) * np.float32(min(width, height)) - np.float32(flare) * np.clip(y, 0, 1)


def back_hair(canvas: Canvas, face: Anatomy) -> None:
    """The hair behind head and shoulders, and a bun on top."""
    style, curl = face.sitting.hairstyle, min(face.person.curl, 1.0)
    if not style.present:
        return
    height = face.length + style.volume
    if style.bun:
        x, y = face.seen(0, -height - 0.04, -0.1)
        bun = canvas.patch(x, y, 0.17, 0.15)
        strands, shine = hair_texture(canvas, face, bun)
        canvas.cover(bun, bun.ellipse(2), hair_colours(face, bun, strands, shine))
    long = style.reach > 0.2 and not style.bun
    bottom = style.reach if long else 0.18
    width = face.width + style.volume * 0.9
    x, _ = face.seen(0, 0, -0.08)
    margin = 0.04 + 0.06 * curl
    flare = 0.16 if long else -0.25
    half_width, half_height = width + max(flare * bottom, 0.0) + margin, (height + bottom + 2 * margin) / 2
    middle = (bottom - height) / 2
    patch = canvas.patch(x, middle, half_width, half_height)
    strands, shine = hair_texture(canvas, face, patch)
    head_x, head_y = patch.u * np.float32(half_width), patch.v * np.float32(half_height) + np.float32(middle)
    ragged = strands * np.float32(0.02 + 0.025 * curl)
    end = (head_y - np.float32(bottom)) * np.float32(0.5) + ragged
    distance = np.maximum(hair_outline(head_x, head_y, width, height, flare) + ragged, end)
    canvas.cover(patch, patch.inside(distance, 2), hair_colours(face, patch, strands, shine, dim=0.66))


def neck(canvas: Canvas, face: Anatomy) -> None:
    """Neck in the shadow of the chin, and the skin above the neckline."""
    half = face.width * face.person.neck * (0.86 + 0.14 * face.adult)
    patch = canvas.patch(0, 0.75, half, 0.5)
    uu = patch.u * patch.u
    mask = patch.inside((np.abs(patch.u) - 1 - 0.25 * np.clip(patch.v, 0, 1)) * np.float32(half), 1.5)
    light = face.sitting.light
    below_chin = smoothstep((patch.v * np.float32(0.5) + np.float32(0.75 - face.length)) * np.float32(1 / 0.22))
    side = np.clip(1 - np.float32(0.45) * uu + np.float32(0.25 * light.direction[0]) * patch.u, 0.2, 1.1)
    shade = side * (np.float32(0.52) + np.float32(0.30) * below_chin)
    skin, dark = face.person.skin, 1 - shade
    canvas.cover(patch, mask, (shade * part * (1 - dark * loss) for part, loss in zip(skin, RED_SHADOW, strict=True)))


def clothes(canvas: Canvas, face: Anatomy) -> None:
    """Shoulders with a round or pointed neckline."""
    sitting = face.sitting
    breadth = 0.72 + 0.16 * face.adult + 0.04 * (face.person.width - 0.455) / 0.02
    top = face.length + 0.11
    patch = canvas.patch(0, top + 0.45, breadth, 0.45)
    uu, vv = patch.u * patch.u, patch.v * patch.v
    shoulder = patch.inside((np.sqrt(np.sqrt(uu * uu + vv * vv)) - 1) * np.float32(0.45), 1.5)
    x, y = patch.u * np.float32(breadth), (patch.v + 1) * np.float32(0.45)
    depth = 0.06 + 0.22 * sitting.neckline
    half = face.width * 0.66
    opening = y - np.float32(depth) * (1 - np.abs(x) * np.float32(1 / half))
    if sitting.neckline < 0.6:
        opening = y - np.float32(depth) * np.sqrt(np.clip(1 - x * x * np.float32(1 / (half * half)), 0, 1))
    folds = value_noise(sitting.textures.noise(5, 14), *uu.shape)
    shade = np.float32(0.80) + np.float32(0.12) * folds - np.float32(0.25) * uu
    shade = shade * (1 + np.float32(0.2 * sitting.light.direction[0]) * patch.u)
    canvas.cover(patch, shoulder * patch.inside(-opening, 1.5), (shade * part for part in sitting.clothes))


def ears(canvas: Canvas, face: Anatomy) -> None:
    """Ears with the shadow of their shell; a turned head hides one behind the cheek."""
    for side in SIDES:
        x, y = face.seen(side * (face.width - 0.005), face.eye_y + 0.10, -0.12)
        ear = canvas.patch(x, y, 0.062, face.person.ears, side * 0.15)
        lit = 0.80 + 0.18 * side * face.sitting.light.direction[0]
        canvas.paint(ear, ear.ellipse(1.5), face.person.skin * rgb(0.98, 0.86, 0.82) * np.float32(lit))
        shell = canvas.patch(x - side * 0.008, y, 0.034, face.person.ears * 0.62, side * 0.15)
        canvas.tint(shell, shell.bump(), rgb(0.62, 0.50, 0.46))


def front_hair(canvas: Canvas, face: Anatomy) -> None:
    """The hair over skull and temples: everything inside the outer shape and outside the opening for the face."""
    style, curl = face.sitting.hairstyle, min(face.person.curl, 1.0)
    if not style.present:
        return
    x, _ = face.seen(0, 0, 0.02)
    width, height = face.width + style.volume * 0.75, face.length + style.volume
    long = style.reach > 0.2 and not style.bun
    low = style.reach if long else 0.10 + min(style.reach, 0.05)
    margin, flare = 0.03 + 0.05 * curl, 0.12 if long else 0.0
    half_width, half_height = width + flare * low + margin, (height + low) / 2 + margin
    middle = (low - height) / 2
    patch = canvas.patch(x, middle, half_width, half_height)
    strands, shine = hair_texture(canvas, face, patch)
    head_x, head_y = patch.u * np.float32(half_width), patch.v * np.float32(half_height) + np.float32(middle)
    ragged = strands * np.float32(0.010 + 0.020 * curl)
    outer = hair_outline(head_x, head_y, width, height, flare) + ragged
    # The opening: an arch over the forehead, shifted by the parting and the turn. Beside the eyes its sides go straight
    # down where the hair is long; where it is short they spread, which leaves sideburns that end at the ear.
    turn, _ = face.seen(style.parting * 0.6, 0, 0.16)
    centre = -0.02
    half = face.width * (0.86 if long else 0.91)
    arch = centre - style.hairline
    u = (head_x + np.float32(x - turn)) * np.float32(1 / half)
    if not long:
        u = u * (1 - np.float32(0.30) * smoothstep((head_y + np.float32(0.16)) * np.float32(1 / 0.30)))
    slant = np.float32(style.parting * 1.8) * u
    v = np.minimum(head_y - np.float32(centre) - slant, 0) * np.float32(1 / arch)
    uu, vv = u * u, v * v
    opening = (np.sqrt(np.sqrt(uu * uu + vv * vv)) - 1) * np.float32(min(half, arch))
    opening = opening + strands * np.float32(0.008 + 0.035 * style.fringe * (style.hairline > -0.3) + 0.02 * curl)
    # It ends in a fringe of strands: beside the ear when short, on the shoulder when long.
    end = smoothstep((np.float32(low - 0.05) + strands * np.float32(0.03) - head_y) * np.float32(1 / 0.10) + 0.5)
    inside = patch.inside(outer, 2) * end
    mask = inside * patch.inside(-opening, 2.5)
    shadow = inside * patch.inside(-opening - np.float32(0.035), 9) * (1 - mask)
    canvas.cover(patch, shadow * np.float32(0.20), rgb(0.04, 0.02, 0.01))
    canvas.cover(patch, mask * np.float32(0.97), hair_colours(face, patch, strands, shine))


def glasses(canvas: Canvas, face: Anatomy) -> None:
    """Two rims, a bridge and temples, lenses with a little tint and a reflection."""
    spec = face.sitting.spectacles
    if spec is None:
        return
    for side in SIDES:
        x, y = face.seen(side * (face.eye_x + 0.008), face.eye_y + spec.drop, 0.46)
        width = min(spec.width, face.eye_x - 0.02) * face.squeeze(side * face.eye_x)
        patch = canvas.patch(x, y, width + spec.rim, spec.height + spec.rim)
        u = patch.u * np.float32(patch.rx / width)
        v = patch.v * np.float32(patch.ry / spec.height)
        distance = squircle(u, v, spec.squareness) * np.float32(spec.height)
        lens = patch.inside(distance)
        canvas.tint(patch, lens * np.float32(spec.tint), rgb(0.45, 0.45, 0.45))
        glare = np.clip(1 - np.abs(u + v * np.float32(0.7) + np.float32(0.5)) * 4, 0, 1) * lens
        canvas.paint(patch, glare * np.float32(0.16), rgb(1, 1, 1))
        thickness = max(spec.rim, 0.5 * canvas.pixel)
        rim = patch.inside(np.abs(distance) - np.float32(thickness / 2))
        canvas.paint(patch, rim * np.float32(spec.opacity), spec.colour)
        outer = x + side * width
        ear_x, ear_y = face.seen(side * face.width, face.eye_y + 0.02, 0.0)
        half = abs(ear_x - outer) / 2
        if half > 0.01:
            temple, mask = canvas.stroke((outer + ear_x) / 2, (y - 0.02 + ear_y) / 2, half * 1.3, spec.rim * 0.9)
            canvas.paint(temple, mask * np.float32(spec.opacity), spec.colour)
    x, y = face.seen(0, face.eye_y + spec.drop - 0.015, 0.50)
    gap = max(face.eye_x + 0.008 - min(spec.width, face.eye_x - 0.02), 0.02)
    bridge, mask = canvas.stroke(x, y, gap * 1.25, spec.rim * 0.9, 0.0, 0.012)
    canvas.paint(bridge, mask * np.float32(spec.opacity), spec.colour)
