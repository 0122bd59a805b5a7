"""Light on the relief, the camera, and the two styles a portrait can have."""

from __future__ import annotations

from math import sqrt

import numpy as np

from facekit.data.portraits.canvas import Canvas, Patch, Pixels, blur, gradient, value_noise
from facekit.data.portraits.features import Anatomy
from facekit.data.portraits.scene import RED_SHADOW


def shade(canvas: Canvas, face: Anatomy, head: Patch) -> None:
    """Lambert shading of the relief by one lamp and fill light, and a gloss that dark skin shows most."""
    light = face.sitting.light
    right, down = gradient(canvas.height[head.at], canvas.pixel)
    x, y, z = light.direction
    # The relief is in the picture's axes, like the lamp, so a tilted head is lit from where the lamp is.
    length = np.float32(1 / sqrt(x * x + y * y + z * z))
    facing = 1 / np.sqrt(right * right + down * down + 1)
    lamp = np.clip((np.float32(z) - np.float32(x) * right - np.float32(y) * down) * facing * length, 0, 1)
    brightness = np.float32(light.ambient) + np.float32(1.12 - light.ambient) * lamp
    dimmer = np.clip(1 - brightness, 0, 1)
    planes = canvas.image[:, head.at[0], head.at[1]]
    # Gloss: the half-way vector between lamp and viewer (Blinn, 1977), to the 16th power by squaring.
    hx, hy, hz = x, y, z + 1 / float(length)
    half = np.float32(1 / sqrt(hx * hx + hy * hy + hz * hz))
    gloss = np.clip((np.float32(hz) - np.float32(hx) * right - np.float32(hy) * down) * facing * half, 0, 1)
    for _ in range(4):
        gloss = gloss * gloss
    gloss *= np.float32(0.045 + 0.07 * (1 - float(face.person.skin.mean())))
    for plane, loss in zip(planes, RED_SHADOW, strict=True):
        plane *= brightness * (1 - dimmer * loss)
        plane += gloss


def photo(canvas: Canvas, face: Anatomy) -> Pixels:
    """The camera: exposure, colour cast, contrast, vignette, a little blur and sensor noise."""
    light, size = face.sitting.light, canvas.size
    square = canvas.axis * canvas.axis
    contrast, middle = light.contrast, np.float32(0.45 * (1 - light.contrast))
    fall = np.float32(light.vignette / 2) * square
    fall = (1 - fall[:, None] - fall) * np.float32(light.exposure * contrast)
    grain = face.sitting.textures.noise(size, size)
    grain *= np.float32(1.7 * light.noise)
    grain += middle
    image = np.empty_like(canvas.image)
    for out, plane, cast in zip(image, canvas.image, (1 + light.warmth, 1.0, 1 - light.warmth), strict=True):
        np.multiply(blur(plane, light.blur), fall, out=out)
        out *= np.float32(cast)
        out += grain
    return image


def sketch(canvas: Canvas, face: Anatomy) -> Pixels:
    """Coloured pencil on paper: dark lines where brightness changes, hatching in the shadows, a pale wash of colour.

    Lines are the difference of a sharp and a soft version of the picture, as in a dodge of its negative.
    """
    size, textures = canvas.size, face.sitting.textures
    image = canvas.image
    image *= np.float32(face.sitting.light.exposure)
    np.clip(image, 0, 1, out=image)
    grey = _grey(image)
    lines = 1 - ((blur(blur(blur(grey, 0.33), 0.33), 0.33) - grey) * np.float32(5.5)).clip(0, 0.85)
    tooth = value_noise(textures.noise(size // 2 + 2, size // 2 + 2), size, size)
    # Diagonal strokes, about five pixels apart at 160, pressed harder where it is darker.
    diagonal = canvas.axis[:, None] * np.float32(17) - canvas.axis * np.float32(17)
    wave = np.abs(diagonal - np.floor(diagonal) - np.float32(0.5)) * 2
    hatch = (np.float32(0.78) - grey).clip(0, 1) * (wave + np.float32(0.35) * tooth)
    lines *= 1 - np.float32(0.55) * hatch.clip(0, 1)
    for plane in image:
        plane[:] = blur(blur(plane, 0.33), 0.33)
    pale = _grey(image) * np.float32(0.25)
    tooth *= np.float32(0.02)
    for plane, paper in zip(image, (0.96, 0.94, 0.89), strict=True):
        plane *= np.float32(0.75)
        plane += pale
        plane *= np.float32(0.58)
        plane += np.float32(0.42)
        plane *= tooth + np.float32(paper)
        plane *= lines
    return image


def _grey(image: Pixels) -> Pixels:
    """Brightness as eyes see it (ITU-R BT.601)."""
    red, green, blue = image
    return red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)


STYLES = {"photo": photo, "sketch": sketch}
