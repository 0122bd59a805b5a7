"""facekit: transfer learning on faces, the package behind the course."""
