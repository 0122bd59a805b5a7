"""Face crops: whatever comes in, each photo has its rows in the table and each crop is a square of the photo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_decode import huge_png, photo, saved

from facekit.data.align import COLUMNS, SEARCH_SIDE, Framing, _square, align_faces, cut, cut_faces
from facekit.data.pack import pack
from facekit.errors import ConfigError, DataError


@pytest.fixture
def photos(real_data):
    if not (real_data / "photos" / "portrait_1.jpg").exists():
        pytest.skip("FACEKIT_DATA has no photos/portrait_1.jpg")
    return real_data / "photos"


def test_faceless_and_unusable_inputs_each_have_a_row(tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "huge.png").write_bytes(huge_png(20000))
    inputs = [
        np.zeros((80, 120, 3), np.uint8),
        np.full((64, 64), 130, np.uint8),
        photo(mode="RGBA"),
        photo(mode="L"),
        np.zeros((3, 50, 60), np.uint8),
        np.zeros((18, 400, 3), np.uint8),
        np.zeros((2, 2), np.uint8),
        tmp_path / "text.jpg",
        tmp_path / "none.jpg",
        str(tmp_path / "huge.png"),
        np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8),
    ]
    crops, table = align_faces(inputs, size=48)
    assert crops.shape == (0, 3, 48, 48) and crops.dtype == np.uint8
    assert tuple(table.columns) == COLUMNS and table["row"].tolist() == list(range(11))
    wanted = ["no face"] * 5 + ["too small"] * 2 + ["unreadable", "no file", "too many pixels", "no face"]
    assert table["reason"].tolist() == wanted
    assert (table["crop"] == -1).all() and table["probability"].isna().all()


def test_no_photos_and_bad_arguments():
    crops, table = align_faces([])
    assert crops.shape == (0, 3, 160, 160) and len(table) == 0
    for options in ({"keep": "best"}, {"size": 0}, {"margin": -0.1}, {"min_probability": 2}):
        with pytest.raises(ConfigError):
            align_faces([photo()], **options)
    with pytest.raises(ConfigError, match="in a list"):
        align_faces("face.jpg")
    for wrong in (np.zeros((10, 10, 3)), np.zeros((10, 10, 2), np.uint8), np.zeros(5, np.uint8)):
        with pytest.raises(DataError, match="photo 0"):
            align_faces([wrong])


@given(
    st.tuples(*[st.floats(-50, 400)] * 2),
    st.tuples(*[st.floats(1, 300)] * 2),
    st.floats(0, 1),
    st.integers(20, 500),
    st.integers(20, 500),
)
def test_the_crop_is_a_square_inside_the_photo(corner, sides, margin, width, height):
    box = (*corner, corner[0] + sides[0], corner[1] + sides[1])
    left, top, right, bottom = _square(box, margin, (width, height))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert right - left == bottom - top
    assert right - left == min(max(1, round(max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin))), width, height)


def smooth(side: int) -> Image.Image:
    """A photo without fine detail, different in every place and colour."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@given(st.floats(-180, 180), st.floats(0.3, 2), st.floats(-40, 40), st.floats(-40, 40))
def test_points_are_brought_to_where_the_framing_wants_them(angle, scale, x, y):
    """A face that is turned, scaled and moved in the photo looks the same in the crop."""
    size, image = 40, smooth(200)
    framing = Framing()
    turn = scale * np.exp(1j * np.radians(angle))
    wanted = (framing.points @ [1, 1j]) * size
    centre = complex(100 + x, 100 + y)
    inside = turn * (wanted - size / 2 * (1 + 1j)) + centre
    crop = cut(image, np.stack([inside.real, inside.imag], 1), size, framing)
    grid = np.add.outer(1j * (np.arange(size) + 0.5), np.arange(size) + 0.5)
    places = turn * (grid - size / 2 * (1 + 1j)) + centre - 0.5 * (1 + 1j)
    pixels = np.asarray(image)
    rows, columns = (np.round(part).astype(int).clip(0, 199) for part in (places.imag, places.real))
    assert difference(crop, pixels[rows, columns].transpose(2, 0, 1)) < 5


def test_what_a_framing_changes():
    size, image = 48, smooth(300)
    points = 100 + 100 * Framing().points  # as FairFace has them in the square from 100 to 200
    straight = cut(image, points, size, Framing())
    square = np.asarray(image.crop((100, 100, 200, 200)).resize((size, size), Image.Resampling.LANCZOS))
    assert difference(straight, square.transpose(2, 0, 1)) < 2
    assert difference(cut(image, points, size, Framing(turn=360)), straight) < 0.5
    assert difference(cut(image, points, size, Framing(turn=90)), np.rot90(straight, -1, (1, 2))) < 2
    moved = cut(image, points, size, Framing(shift=0.25))
    assert difference(moved[:, :, 12:], straight[:, :, :36]) < 2
    wider = cut(image, points, size, Framing(wider=2))
    square = np.asarray(image.crop((50, 50, 250, 250)).resize((size, size), Image.Resampling.LANCZOS))
    assert difference(wider, square.transpose(2, 0, 1)) < 2
    coarse = cut(image, points, size, Framing(pixels=4))
    assert coarse.shape == straight.shape and 0 < coarse.std() < straight.std()


def test_outside_of_the_photo_its_border_goes_on():
    image = Image.new("RGB", (60, 60), (10, 20, 30))
    crop = cut(image, 60 * Framing().points, 32, Framing(wider=3, turn=30))
    assert (crop == np.array([10, 20, 30])[:, None, None]).all()
    far = cut(image, 60 * Framing().points + 500, 32, Framing())
    assert (far == np.array([10, 20, 30])[:, None, None]).all()


def test_points_that_all_lie_in_one_place_are_no_error():
    assert cut(smooth(50), np.full((5, 2), 20.0), 16, Framing()).shape == (3, 16, 16)


@pytest.mark.parametrize("wrong", [{"wider": 0}, {"pixels": 0}, {"turn": float("nan")}])
def test_impossible_framings(wrong):
    with pytest.raises(ConfigError, match="framing"):
        Framing(**wrong)


def test_faces_in_several_framings():
    from facekit.data.portraits import render_portraits

    images = render_portraits(2, seed=11, size=128, per_person=1, workers=1).images
    photos = [images[0], np.zeros((80, 80, 3), np.uint8), images[1]]
    crops, rows = cut_faces(photos, [Framing(), Framing(turn=20)], 48)
    assert crops.shape == (2, 2, 3, 48, 48) and crops.dtype == np.uint8 and rows.tolist() == [0, 2]
    same, _ = align_faces(photos, size=48, framing=Framing())
    assert np.array_equal(same, crops[0]) and not np.array_equal(crops[0], crops[1])
    crops, rows = cut_faces([photos[1]], [Framing()], 48)
    assert crops.shape == (1, 0, 3, 48, 48) and len(rows) == 0
    with pytest.raises(ConfigError, match="framing"):
        cut_faces(photos, [], 48)


def test_many_faces_largest_first(photos):
    crops, table = align_faces([photos / "six_people.jpg", photos / "portrait_1.jpg"], keep="all")
    assert table["row"].tolist() == [0] * 6 + [1] and table["crop"].tolist() == list(range(7))
    areas = ((table["right"] - table["left"]) * (table["bottom"] - table["top"]))[:6]
    assert areas.is_monotonic_decreasing
    largest, chosen = align_faces([photos / "six_people.jpg"])
    assert len(largest) == 1 and np.array_equal(largest[0], crops[0]) and chosen["left"][0] == table["left"][0]


def test_boxes_are_the_detectors_own(photos):
    from facenet_pytorch import MTCNN

    with Image.open(photos / "portrait_2.jpg") as image:
        boxes, probabilities = MTCNN(keep_all=True).detect(image.convert("RGB"))
    _, table = align_faces([photos / "portrait_2.jpg"])
    assert np.allclose(table[["left", "top", "right", "bottom"]].to_numpy(float)[0], boxes[0].astype(float), atol=1e-3)
    assert abs(table["probability"][0] - probabilities[0]) < 1e-6


def test_forms_of_the_same_photo_give_the_same_face(photos, tmp_path):
    with Image.open(photos / "portrait_2.jpg") as image:
        image = image.convert("RGB")
    array = np.asarray(image)
    clear = image.convert("RGBA")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.png").write_bytes(saved(turned, "PNG", exif=exif))
    forms = [image, array, array.transpose(2, 0, 1), clear, np.asarray(clear), tmp_path / "turned.png"]
    crops, table = align_faces([*forms, image.convert("L")], size=64)
    assert len(crops) == 7
    assert all(np.array_equal(crop, crops[0]) for crop in crops[1:6])
    assert abs(table["left"][6] - table["left"][0]) < 15  # grey: the same place, within a few pixels


def test_huge_photos_are_searched_small_and_cropped_from_the_original(photos):
    with Image.open(photos / "portrait_2.jpg") as image:
        image = image.convert("RGB")
    factor = 4 * SEARCH_SIDE // max(image.size)
    huge = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    crops, table = align_faces([image, huge])
    small, large = table[["left", "top", "right", "bottom"]].to_numpy(float)
    assert np.abs(large / factor - small).max() < 0.08 * (small[2] - small[0])
    assert np.abs(crops[0].astype(int) - crops[1]).mean() < 12


def test_packing_aligned_rejects_the_faceless(photos, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((photos / "portrait_1.jpg").read_bytes())
    (folder / "b.png").write_bytes(saved(photo()))
    (folder / "l.csv").write_text("file,k\na.jpg,1\nb.png,2\n")
    faces = pack(folder, tmp_path / "set", size=48, align=True)
    assert faces.labels["file"].tolist() == ["a.jpg"]
    assert faces.manifest["rejected_by_reason"] == {"no face": 1}
    assert np.array_equal(faces.images[0], align_faces([folder / "a.jpg"], size=48)[0][0])
