"""Self-taught learning on pixels: what small patches of unlabelled photos look like, found by K-means.

Raina et al. (ICML 2007) learnt features from photos without labels and then a classifier from few labels. Here the
features are those of Coates, Lee & Ng (AISTATS 2011): patches that are brought to one brightness and contrast and
whitened, centroids of K-means, and for each ninth of a photo how close its patches are to every centroid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.transfer.table import Parameter, Row

CHUNK = 64  # photos at once
FLAT = 10.0  # added to the variance of a patch (of values 0 to 255), so that a flat one is not all noise
RIDGE = 0.1  # added to the variances before whitening, for patches of variance 1
GRID = 3  # a photo's places a side, over each of which codes are averaged; 2 as in the paper is worse on faces
TINY = 1e-8


@dataclass(frozen=True, eq=False)
class PatchCodes:
    """How photos are coded: patches of `side` pixels from photos of `size` pixels, `step` pixels apart.

    mean: float32 (D,) and whitening: float32 (D, D) of patches, D = 3 · side²; centroids: float32 (K, D). middle and
    scale: float32 (9 K,) of the codes of unlabelled photos.
    """

    size: int
    side: int
    step: int
    mean: torch.Tensor
    whitening: torch.Tensor
    centroids: torch.Tensor
    middle: torch.Tensor
    scale: torch.Tensor

    def __call__(self, faces: FaceSet) -> FeatureSet:
        """The photos' codes, float32 (N, 9 K): standardised, and divided by √(9 K), which a probe multiplies by."""
        codes = (self.raw(faces) - self.middle) / self.scale / math.sqrt(len(self.scale))
        return FeatureSet(codes.numpy(), faces.labels)

    @torch.no_grad()
    def raw(self, faces: FaceSet) -> torch.Tensor:
        """float32 (N, 9 K): mean triangle code of the patches in each ninth of every photo."""
        codes = []
        for patches in _patches(faces, self.size, self.side, self.step):
            n, places, _ = patches.shape
            flat = (patches.flatten(0, 1) - self.mean) @ self.whitening
            rows = math.isqrt(places)  # the places form a square grid
            maps = triangle(flat, self.centroids).view(n, rows, rows, -1).permute(0, 3, 1, 2)
            codes.append(F.adaptive_avg_pool2d(maps, GRID).flatten(1))
        return torch.cat(codes)


def triangle(patches: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """How much closer than on average each centroid is, (M, D) and (K, D) to (M, K): max(0, mean distance − distance).

    The "triangle" activation of Coates, Lee & Ng (2011), section 3.2.1: about half of the numbers are 0.
    """
    distances = torch.cdist(patches, centroids)
    return (distances.mean(1, keepdim=True) - distances).clamp_(min=0)


def patch_codes(
    unlabelled: FaceSet,
    k: int = 200,
    size: int = 48,
    side: int = 6,
    step: int = 2,
    patches: int = 40_000,
    seed: int = 0,
) -> PatchCodes:
    """Learns codes from photos without a look at any label (Coates, Lee & Ng 2011).

    k: centroids. size: pixels that the photos are brought to. side, step: of patches and between them. patches: how
    many are drawn to learn from. Raises ConfigError for numbers that do not fit, DataError for fewer patches than k.
    """
    from sklearn.cluster import MiniBatchKMeans  # not above: the table of methods need not wait for scikit-learn

    if min(k, side, step) < 1 or side > size:
        raise ConfigError(f"k, side and step must be 1 or more and side at most {size}; got {k}, {side}, {step}.")
    if len(unlabelled) * ((size - side) // step + 1) ** 2 < k or patches < k:
        raise DataError(f"{k} centroids need as many patches; take more photos, a smaller step or fewer centroids.")
    rng = np.random.default_rng(seed)
    share = max(1, math.ceil(patches / len(unlabelled)))
    drawn = [
        torch.stack([photo[torch.from_numpy(rng.permutation(len(photo))[:share])] for photo in chunk]).flatten(0, 1)
        for chunk in _patches(unlabelled, size, side, step)
    ]
    some = torch.cat(drawn)
    mean = some.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(some.T).double())
    whitening = ((vectors / (values.clamp(min=0) + RIDGE).sqrt()) @ vectors.T).float()
    white = ((some - mean) @ whitening).numpy()
    found = MiniBatchKMeans(k, n_init=1, max_iter=20, batch_size=4096, random_state=seed).fit(white)
    centroids = torch.from_numpy(found.cluster_centers_.astype(np.float32))
    nothing = torch.zeros(GRID**2 * k), torch.ones(GRID**2 * k)
    codes = PatchCodes(size, side, step, mean, whitening, centroids, *nothing).raw(unlabelled)
    return PatchCodes(size, side, step, mean, whitening, centroids, codes.mean(0), codes.std(0) + TINY)


def _patches(faces: FaceSet, size: int, side: int, step: int) -> Iterator[torch.Tensor]:
    """Patches of a few photos at a time, float32 (n, places, 3 · side²), each of mean 0 and variance about 1."""
    for start in range(0, len(faces), CHUNK):
        part = faces.select(np.arange(start, min(start + CHUNK, len(faces)))).resized(size)
        flat = F.unfold(torch.from_numpy(np.asarray(part.images)).float(), side, stride=step).transpose(1, 2)
        flat = flat - flat.mean(2, keepdim=True)
        yield flat / (flat.square().mean(2, keepdim=True) + FLAT).sqrt()


ROWS = (
    Row(
        name="patches",
        about="self-taught learning: how close a photo's patches are to centroids of K-means (Coates, Lee & Ng 2011)",
        acts="before",
        sets="unlabelled and labelled, photos",
        labels="of the labelled set alone",
        parameters={"k": Parameter(200, "centroids, 1 or more")},
    ),
)
