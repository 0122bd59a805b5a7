"""The face, one function a feature. Each paints colour into the face layer and, where it has depth, relief.

The light falls on the relief later (`light.shade`), so that nose, lips and wrinkles cast their shading together.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from facekit.data.portraits.canvas import (
    Canvas,
    Patch,
    Pixels,
    cos_sin,
    ellipse,
    rgb,
    smoothstep,
    squircle,
    value_noise,
)
from facekit.data.portraits.people import Person, Sitting

SIDES = (-1, 1)  # left and right in the picture


class Anatomy:
    """Measures of one face at one age, seen from one side. Lengths in face units, y downwards from mid-face.

    Children: a smaller face under the same skull, large eyes, low features, small nose (after Farkas, 1994).
    """

    def __init__(self, person: Person, sitting: Sitting):
        self.person, self.sitting = person, sitting
        self.adult = adult = float(smoothstep(np.array((sitting.age - 1) / 18)))  # 0 small child … 1 adult
        # 0 smooth skin … 1 deeply wrinkled.
        self.old = float(smoothstep(np.array((sitting.age + person.weathered - 32) / 45)))
        self.width = person.width * (0.95 + 0.05 * adult)
        self.length = person.length * (0.86 + 0.14 * adult)
        self.eye_y = 0.055 - 0.085 * adult
        self.eye_x = person.eye_distance * (0.96 + 0.04 * adult)
        self.eye_width = person.eye_width * (1.04 - 0.04 * adult)
        self.nose_y = self.eye_y + person.nose_length * (0.72 + 0.28 * adult) + 0.012 * self.old
        self.mouth_y = self.nose_y + (self.length - self.nose_y) * 0.345
        brow_height, brow_lift = person.brow_height * (0.92 + 0.08 * adult), 0.035 * sitting.brow_lift
        self.brow_y = self.eye_y - brow_height - brow_lift + 0.008 * self.old
        self.turn = cos_sin(sitting.yaw)
        self.nod = cos_sin(sitting.pitch)

    def seen(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point of the head (z towards the viewer) appears after the head has turned and nodded."""
        return x * self.turn[0] + z * self.turn[1], y * self.nod[0] + z * self.nod[1]

    def squeeze(self, x: float) -> float:
        """Foreshortening of something flat on the face at x: the far half of a turned head looks narrower."""
        return min(max(cos_sin(self.sitting.yaw - 1.3 * x)[0], 0.6), 1.0)


def outline(face: Anatomy, patch: Patch) -> Pixels:
    """Signed distance (face units, negative inside) to the outline of the head: an egg with a more or less square jaw.

    The patch must be centred on the head with half-sizes (width, length).
    """
    childlike = 1 - face.adult
    jaw = face.person.jaw + 0.02 * childlike + 0.03 * (face.sitting.mouth_open > 0.4)
    below = np.clip(patch.v, 0, 1.3)
    u = patch.u / (1 - np.float32(jaw) * below * below)
    return squircle(u, patch.v, face.person.squareness * (0.5 + 0.5 * face.adult)) * np.float32(face.width)


def draw_face(canvas: Canvas, face: Anatomy) -> tuple[Patch, Pixels]:
    """Draws every feature on the face layer; returns the head's window and its outline distance."""
    head = canvas.patch(0, 0, face.width, face.length)
    distance = outline(face, head)
    skin(canvas, face, head, distance)
    cheeks(canvas, face)
    nose(canvas, face)
    mouth(canvas, face)
    beard(canvas, face, head, distance)
    wrinkles(canvas, face)
    for side in SIDES:
        eye(canvas, face, side)
        brow(canvas, face, side)
    return head, distance


def skin(canvas: Canvas, face: Anatomy, head: Patch, distance: Pixels) -> None:
    """The skin's own colour with blotches and freckles, over the ellipsoid of the skull."""
    draws, person = face.sitting.textures, face.person
    h, w = distance.shape
    blotches = value_noise(draws.noise(11, 9), h, w)
    fine = value_noise(draws.noise(44, 36), h, w)
    blotches *= np.float32(0.025)
    grain = 1 + np.float32(0.012 + 0.03 * face.old) * fine
    planes = canvas.image[:, head.at[0], head.at[1]]
    for plane, part, share in zip(planes, person.skin, (0.6, 1.0, 1.0), strict=True):
        np.multiply(grain + blotches * np.float32(share), part, out=plane)
    if person.freckles > 0.1:
        dots = np.clip(fine - np.float32(0.25), 0, 1) * np.float32(0.5 * min(person.freckles, 1))
        middle = canvas.patch(*face.seen(0, face.eye_y + 0.15, 0.4), 0.36, 0.26)
        mask = np.zeros((canvas.size, canvas.size), np.float32)
        mask[head.at] = dots
        canvas.tint(middle, mask[middle.at] * np.sqrt(middle.bump()), rgb(0.75, 0.55, 0.45))
    # Skull: an ellipsoid, slightly flattened so that its rim does not fall off infinitely steeply.
    r = distance * np.float32(1 / face.width) + 1
    canvas.height[head.at] = np.float32(0.46) * np.sqrt(np.clip(1.10 - r * r, 0.0, 2))


def cheeks(canvas: Canvas, face: Anatomy) -> None:
    """Cheekbones, the blush over them, the hollow below in lean and old faces, temples and chin."""
    smile = max(face.sitting.smile, 0)
    blush = 0.05 + 0.06 * face.sitting.makeup + 0.04 * (1 - face.adult)
    for side in SIDES:
        x, y = face.seen(side * 0.255, face.nose_y - 0.10 - 0.03 * smile, 0.33)
        bone, width = face.person.cheeks + 0.025 * smile + 0.02 * (1 - face.adult), 0.19 * face.squeeze(side * 0.25)
        canvas.mound(x, y, width, 0.17, bone, rgb(1.0, 1 - blush, 1 - 0.8 * blush))
        hollow = -0.035 * face.old - 0.012 * face.adult
        canvas.mound(*face.seen(side * 0.29, face.mouth_y - 0.05, 0.25), 0.13, 0.16, hollow)
    chin = face.person.chin * (0.5 + 0.5 * face.adult)
    canvas.mound(*face.seen(0, face.length - 0.12, 0.42), 0.14, 0.10, chin)


def nose(canvas: Canvas, face: Anatomy) -> None:
    """Bridge, tip, wings and nostrils. The underside falls away steeply, which is what shades it from above."""
    person = face.person
    size = 0.62 + 0.38 * face.adult + 0.06 * face.old
    width, height = person.nose_width * size, person.nose_height * size
    top = face.eye_y - 0.02
    x, y = face.seen(0, (top + face.nose_y) / 2, 0.50)
    turned = -0.25 * face.turn[1]
    canvas.mound(x, y, 0.075 * size + 0.01, (face.nose_y - top) * 0.66, 0.62 * height, angle=turned)
    x, y = face.seen(0, face.nose_y - 0.025, 0.50 + height)
    canvas.mound(x, y, width * 1.05, 0.085 * size + 0.015, 0.85 * height, rgb(1.0, 0.95, 0.94))
    for side in SIDES:
        x, y = face.seen(side * width, face.nose_y - 0.005, 0.46)
        canvas.mound(x, y, width * 0.52, 0.048 * size + 0.008, 0.042 * size)
        x, y = face.seen(side * width * 0.55, face.nose_y + 0.034 * size, 0.49)
        nostril = canvas.patch(x, y, width * 0.34, 0.020 * size, side * 0.25)
        canvas.tint(nostril, np.sqrt(nostril.bump()), rgb(0.38, 0.28, 0.26))
    x, y = face.seen(0, face.nose_y + 0.050 * size, 0.48)
    below = canvas.patch(x, y, width * 1.35, 0.032)
    canvas.tint(below, below.bump(), rgb(0.74, 0.66, 0.63))


def mouth(canvas: Canvas, face: Anatomy) -> None:
    """Lips around a line that smiles or not; teeth and darkness where it is open."""
    sitting, person = face.sitting, face.person
    smile, opened = sitting.smile, min(sitting.mouth_open, 1.1)
    surprise = sitting.expression == "surprise"
    x, y = face.seen(0, face.mouth_y, 0.42)
    half = person.mouth_width * (0.84 + 0.16 * face.adult) * (1 + 0.20 * smile - (0.18 * opened if surprise else 0))
    half *= face.squeeze(0)
    lips = person.lips * (1 - 0.45 * face.old) * (0.85 + 0.15 * face.adult) * (1 - 0.12 * max(smile, 0))
    gap = opened * (0.085 if surprise else 0.042)
    reach = half + 0.25
    canvas.mound(x, y - 0.01, reach * 0.62, 0.15, 0.030)

    patch = canvas.patch(x, y + gap * 0.5, half, 0.13 + gap)
    inner = np.clip(1 - patch.u * patch.u, 0, 1)
    # v in face units below the line between the lips, whose corners a smile lifts.
    v = patch.v * np.float32(patch.ry) + np.float32(gap * 0.5 - 0.055 * smile) * (inner - 0.45)
    bow = 1 - np.float32(0.28) * np.clip(1 - 14 * patch.u * patch.u, 0, 1)  # the dip in the upper lip
    upper = -(np.float32(0.82 * lips) * bow + np.float32(gap * 0.35)) * inner
    lower = np.float32(1.15 * lips + gap) * inner * (0.4 + 0.6 * inner)
    inside = patch.inside(np.maximum(upper - v, v - lower))
    natural = person.skin * rgb(0.88, 0.66, 0.64) + rgb(0.04, 0.0, 0.01)
    colour = natural + np.float32(0.75 * sitting.makeup) * (sitting.lipstick * (0.35 + person.skin) - natural)
    canvas.paint(patch, inside * np.float32(0.9), colour)
    # Relief: two rolls of flesh that meet in a groove, and a dent under the lower lip.
    roll = inner * np.sqrt(np.clip((v - upper) * (lower - v), 0, 1))
    canvas.lift(patch, roll, 0.55)
    canvas.mound(x, y + 1.15 * lips + gap + 0.035, half * 0.75, 0.035, -0.018)
    groove = patch.inside(np.abs(v) - np.float32(0.004) - np.float32(0.003) * inner, 1.5) * np.sqrt(inner)
    canvas.tint(patch, groove * np.float32(0.8), rgb(0.40, 0.28, 0.28))
    if gap > 0.006:
        hole_top = -np.float32(gap * 0.35) * inner
        hole_bottom = np.float32(gap) * inner * (0.4 + 0.6 * inner)
        hole = patch.inside(np.maximum(hole_top - v, v - hole_bottom)) * (patch.u * patch.u < 0.9)
        canvas.paint(patch, hole, rgb(0.16, 0.05, 0.05))
        teeth = patch.inside(v - hole_top - np.float32(min(gap, 0.034) * 0.9)) * hole
        yellow = 0.12 * face.old
        canvas.paint(patch, teeth * np.float32(0.9), rgb(0.86, 0.84 - 0.5 * yellow, 0.80 - yellow))
    for side in SIDES:  # the shadow at the corners
        corner = canvas.patch(x + side * half, y - 0.028 * smile, 0.030, 0.028)
        canvas.tint(corner, corner.bump(), rgb(0.72, 0.62, 0.60))


def beard(canvas: Canvas, face: Anatomy, head: Patch, distance: Pixels) -> None:
    """Stubble, moustache, goatee or full beard; grows from the jaw and leaves the lips free."""
    style, growth = face.sitting.beard_style, face.sitting.beard
    if style == "none" or growth < 0.05:
        return
    h, w = distance.shape
    x, y = face.seen(0, face.mouth_y, 0.42)
    head_x, head_y = head.u * np.float32(head.rx), head.v * np.float32(head.ry)
    grain = value_noise(face.sitting.textures.noise(56, 44), h, w)
    off = np.abs(head_x - np.float32(x))
    lips = ellipse(off, head_y - np.float32(y), face.person.mouth_width * 1.02, 0.055)
    # Upper edge: across the cheek from the ear to the corner of the mouth, and under the nose.
    edge = np.float32(face.nose_y + 0.065) - np.clip(off - 0.16, 0, 1) * np.float32(0.75)
    area = smoothstep((head_y - edge) * np.float32(1 / 0.07))
    if style in ("moustache", "goatee"):
        lip_strip = smoothstep((np.float32(y) - 0.005 - head_y) * np.float32(40)) * smoothstep((0.21 - off) * 20)
        chin_patch = smoothstep((head_y - np.float32(y) + 0.05) * np.float32(15)) * smoothstep((0.20 - off) * 14)
        area = area * (lip_strip if style == "moustache" else np.maximum(lip_strip, chin_patch))
    cover = {"stubble": 0.18 + 0.25 * growth, "full": 0.62 + 0.35 * growth}.get(style, 0.55 + 0.4 * growth)
    mask = area * smoothstep(lips * np.float32(1 / 0.02)) * np.clip(1 + np.float32(0.55) * grain, 0, 1.4)
    mask = np.clip(mask * np.float32(cover), 0, 0.97)
    light = np.float32(0.85) + np.float32(0.22) * grain
    canvas.cover(head, mask, (light * part for part in face.sitting.hairstyle.colour))
    canvas.height[head.at] += mask * (np.float32(0.02) + np.float32(0.008) * grain)


def wrinkles(canvas: Canvas, face: Anatomy) -> None:
    """Lines on the forehead, crow's feet, bags under the eyes, folds from nose to mouth: grooves in the relief."""
    old, smile, lift = face.old, max(face.sitting.smile, 0), max(face.sitting.brow_lift, 0)
    for x, y, length, angle, bend, depth in _lines(face, old, smile, lift):
        if depth < 0.04:
            continue
        patch, mask = canvas.stroke(x, y, length, 0.012 + 0.006 * old, angle, bend)
        canvas.lift(patch, mask, -0.010 * depth)
        canvas.tint(patch, mask * np.float32(min(0.55 * depth, 0.6)), rgb(0.62, 0.52, 0.48))
    for side in SIDES:  # bags under the eyes
        x, y = face.seen(side * face.eye_x, face.eye_y + 0.075, 0.38)
        bag = canvas.patch(x, y, 0.10, 0.035 + 0.015 * old, side * 0.12)
        canvas.tint(bag, bag.bump() * np.float32(0.12 + 0.45 * old), rgb(0.68, 0.58, 0.60))
        canvas.lift(bag, bag.bump(), 0.010 * old)


def _lines(
    face: Anatomy, old: float, smile: float, lift: float
) -> Iterator[tuple[float, float, float, float, float, float]]:
    """Every wrinkle as (x, y, half length, angle, bend, depth)."""
    top = face.brow_y - 0.075
    for row in range(3):
        x, y = face.seen(0, top - 0.062 * row, 0.42)
        yield x, y, 0.23 - 0.02 * row, 0.0, 0.012, 0.9 * old + 0.5 * lift
    frown = max(face.sitting.brow_frown, 0)
    for side in SIDES:
        x, y = face.seen(side * 0.032, face.brow_y + 0.01, 0.45)
        yield x, y, 0.045, 1.5 + side * 0.12, 0.0, 0.55 * old + 0.9 * frown
        x, y = face.seen(side * (face.person.nose_width + 0.080), (face.nose_y + face.mouth_y) / 2 - 0.02, 0.38)
        yield x, y, 0.115, 1.5708 - side * 0.55, -side * 0.02, 0.20 * face.adult + 0.8 * old + 0.6 * smile
        for ray in (-1, 0, 1):
            x, y = face.seen(side * (face.eye_x + 0.145), face.eye_y + 0.03 * ray + 0.01, 0.27)
            yield x, y, 0.045, side * 0.35 * ray, 0.0, 0.9 * old + 0.25 * smile - 0.1
        x, y = face.seen(side * 0.175, face.mouth_y + 0.075, 0.36)
        yield x, y, 0.06, 1.57 - side * 0.2, 0.0, 0.8 * old - 0.1


def eye(canvas: Canvas, face: Anatomy, side: int) -> None:
    """Socket, lids around an eyeball with iris and pupil, lashes, crease, and the lamp mirrored in it."""
    person, sitting = face.person, face.sitting
    x, y = face.seen(side * face.eye_x, face.eye_y, 0.37)
    squeeze = face.squeeze(side * face.eye_x)
    width = face.eye_width * squeeze
    tilt = side * (person.eye_tilt + 0.05 * face.old)
    opening = person.eye_opening * (1.12 - 0.12 * face.adult) * sitting.eyes_open * (1 - 0.22 * face.old)

    socket = -person.eye_depth * (0.5 + 0.5 * face.adult) - 0.02
    canvas.mound(x - side * 0.012, y - 0.02, 0.155 * squeeze, 0.125, socket, rgb(0.86, 0.80, 0.80))
    lid = canvas.patch(x, y - opening * 0.7, width * 1.15, opening * 1.3 + 0.02, tilt)
    canvas.lift(lid, lid.bump(), 0.022)
    if sitting.makeup > 0.3:
        canvas.tint(lid, lid.bump() * np.float32(0.5 * sitting.makeup), rgb(0.62, 0.48, 0.50))

    patch = canvas.patch(x, y, width, 0.10, tilt)
    arch = np.clip(1 - patch.u * patch.u, 0, 1)
    # The upper lid is highest towards the nose, the lower one lowest towards the temple.
    lean = patch.u * np.float32(0.22 * side)
    v = patch.v * np.float32(patch.ry)
    upper, lower = -np.float32(opening) * arch * (1 - lean), np.float32(0.62 * opening) * arch * (1 + lean)
    ball = patch.inside(np.maximum(upper - v, v - lower))
    shade = 0.70 + 0.30 * smoothstep((v - upper) * np.float32(1 / 0.035))
    canvas.paint(patch, ball, rgb(0.86, 0.83, 0.81) * (0.62 + 0.38 * sqrt(float(person.skin.mean()))) * shade)
    _iris(canvas, face, patch, ball, v, shade)
    # Lashes: a dark rim along the upper lid, thicker with mascara; a fainter one below.
    lash = 0.007 + 0.004 * sitting.makeup + 0.002 * face.adult
    rim = patch.inside(np.abs(v - upper + np.float32(0.4 * lash)) - np.float32(lash)) * np.sqrt(arch)
    canvas.paint(patch, rim * np.float32(0.72 + 0.25 * sitting.makeup), rgb(0.09, 0.06, 0.05))
    low = patch.inside(np.abs(v - lower) - np.float32(0.004), 1.5) * np.sqrt(arch)
    canvas.tint(patch, low * np.float32(0.5), rgb(0.50, 0.38, 0.36))
    crease, mask = canvas.stroke(x, y - opening - 0.024, width * 1.08, 0.009, tilt, 0.030)
    canvas.tint(crease, mask, rgb(0.62, 0.52, 0.50))


def _iris(canvas: Canvas, face: Anatomy, patch: Patch, ball: Pixels, v: Pixels, shade: Pixels) -> None:
    """Iris with a darker rim, pupil, and a highlight on the side of the lamp."""
    gaze_x, gaze_y = face.sitting.gaze
    gaze_x -= 0.035 * face.turn[1]  # people look towards the camera
    radius = 0.044 * (face.eye_width / 0.098)
    dx, dy = patch.u * np.float32(patch.rx) - np.float32(gaze_x), v - np.float32(gaze_y - 0.004)
    r = np.sqrt(dx * dx + dy * dy) * np.float32(1 / radius)
    disc = patch.inside((r - 1) * np.float32(radius)) * ball
    colour = face.person.iris * (0.55 + 0.65 * np.clip(2.2 - 2 * r, 0, 1)) * shade
    canvas.paint(patch, disc, colour)
    canvas.paint(patch, patch.inside((r - 0.42) * np.float32(radius)) * ball, rgb(0.02, 0.02, 0.02))
    light_x = 0.4 * face.sitting.light.direction[0]
    sx, sy = dx - np.float32(radius * light_x), dy + np.float32(radius * 0.38)
    spark = patch.inside(np.sqrt(sx * sx + sy * sy) - np.float32(0.010), 1.2) * ball
    canvas.paint(patch, spark * np.float32(0.85), rgb(0.97, 0.97, 0.97))


def brow(canvas: Canvas, face: Anatomy, side: int) -> None:
    """An arch of short hairs, thick at the nose and thin at the temple; greys less than the head."""
    person, sitting = face.person, face.sitting
    x, y = face.seen(side * (face.eye_x + 0.005), face.brow_y, 0.38)
    half = 0.135 * face.squeeze(side * face.eye_x)
    thick = person.brow_thickness * (0.75 + 0.25 * face.adult) * (1 - 0.25 * sitting.makeup)
    tilt = side * (-0.05 + 0.05 * face.old + 0.28 * sitting.brow_frown * -1 + 0.06 * sitting.brow_lift)
    y += 0.022 * max(sitting.brow_frown, 0)
    x -= side * 0.012 * max(sitting.brow_frown, 0)
    patch = canvas.patch(x, y, half, thick * 2.2 + person.brow_arch, tilt)
    outward = patch.u * np.float32(side)
    along = np.clip(1 - patch.u * patch.u, 0, 1)
    middle = np.float32(person.brow_arch) * (0.5 - along + 0.35 * np.clip(outward, 0, 1) * outward)
    taper = np.float32(thick) * (0.72 - 0.42 * outward) * np.sqrt(along)
    mask = patch.inside(np.abs(patch.v * np.float32(patch.ry) - middle) - taper, 2.0) * np.minimum(along * 3, 1)
    grain = value_noise(sitting.textures.noise(8, 26), *mask.shape)
    darker = np.minimum(person.hair, sitting.hairstyle.colour) * rgb(0.7, 0.68, 0.66)
    cover = 0.55 + 0.12 * sitting.makeup + 0.10 * face.adult
    canvas.paint(patch, mask * np.clip(np.float32(cover) + np.float32(0.22) * grain, 0, 0.95), darker)
    canvas.mound(x, y + 0.012, half * 1.1, 0.065, 0.012 + 0.012 * face.adult)
