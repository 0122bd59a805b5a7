"""Light on the relief, the camera, and the two styles a portrait can have."""

from __future__ import annotations

from math import sqrt

import numpy as np

from facekit.data.portraits.canvas import Canvas, Patch, Pixels, blur, gradient, rgb, value_noise
from facekit.data.portraits.features import Anatomy

_LUMA = rgb(0.299, 0.587, 0.114)


def shade(canvas: Canvas, face: Anatomy, head: Patch) -> None:
    """Lambert shading of the relief by one lamp and fill light, and a gloss that dark skin shows most.

    Light that enters the skin comes out redder, so shadows lose green and blue first.
    """
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
    for plane, loss in zip(planes, (0.0, 0.26, 0.38), strict=True):
        plane *= brightness * (1 - dimmer * np.float32(loss))
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
    image = np.clip(canvas.image * np.float32(face.sitting.light.exposure), 0, 1)
    grey = (image * _LUMA).sum(0)
    soft = blur(blur(blur(grey, 0.33), 0.33), 0.33)
    wash = np.stack([blur(blur(plane, 0.33), 0.33) for plane in image])
    lines = np.clip((soft - grey) * 5.5, 0, 0.85)
    tooth = value_noise(textures.noise(size // 2 + 2, size // 2 + 2), size, size)
    # Diagonal strokes, about five pixels apart at 160, pressed harder where it is darker.
    diagonal = np.add.outer(canvas.axis * np.float32(17), canvas.axis * np.float32(-17))
    wave = np.abs(diagonal - np.floor(diagonal) - np.float32(0.5)) * 2
    hatch = np.clip(np.float32(0.78) - grey, 0, 1) * (wave + np.float32(0.35) * tooth)
    paper = rgb(0.96, 0.94, 0.89) + np.float32(0.02) * tooth
    wash_grey = (wash * _LUMA).sum(0)
    colour = wash_grey + np.float32(0.75) * (wash - wash_grey)
    picture = paper * (np.float32(0.42) + np.float32(0.58) * colour)
    picture *= 1 - np.float32(0.55) * np.clip(hatch, 0, 1)
    return picture * (1 - lines)


STYLES = {"photo": photo, "sketch": sketch}
