import numpy as np
import pytest

from wan_alpha.data.synthetic import (
    SUBJECTS,
    caption,
    evaluation_scenes,
    render_backdrop,
    render_opaque,
    render_subject,
    sample_scene,
    transparent_caption,
)

SIZE = {"num_frames": 5, "height": 32, "width": 48}


@pytest.mark.parametrize("scene", evaluation_scenes(len(SUBJECTS), seed=3), ids=lambda scene: scene.subject)
def test_subject_is_visible_and_leaves_the_border_empty(scene):
    colour, alpha = render_subject(scene, **SIZE)
    assert colour.shape == (5, 32, 48, 3)
    assert alpha.shape == (5, 32, 48)
    assert alpha.dtype == colour.dtype == np.float32
    assert 0 <= min(alpha.min(), colour.min()) <= max(alpha.max(), colour.max()) <= 1
    assert alpha.max() > 0.5
    assert 0.01 < alpha.mean() < 0.5
    assert np.concatenate([alpha[:, [0, -1]].ravel(), alpha[:, :, [0, -1]].ravel()]).max() < 0.02


def test_a_scene_is_a_function_of_its_seed():
    scene = sample_scene(11)
    assert scene == sample_scene(11)
    assert scene != sample_scene(12)
    np.testing.assert_array_equal(render_opaque(scene, **SIZE), render_opaque(scene, **SIZE))


def test_opaque_clip_is_the_subject_over_its_backdrop():
    scene = sample_scene(5)
    colour, alpha = render_subject(scene, **SIZE)
    backdrop = render_backdrop(scene, **SIZE)
    expected = colour * alpha[..., None] + backdrop * (1 - alpha[..., None])
    np.testing.assert_allclose(render_opaque(scene, **SIZE), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("moving left", 1, -1), ("moving right", 1, 1), ("moving up", 0, -1), ("moving down", 0, 1)]
)
def test_captions_tell_the_motion(motion, axis, sign):
    scene = next(s for s in map(sample_scene, range(200)) if s.motion == motion)
    _, alpha = render_subject(scene, num_frames=2, height=32, width=32)
    first, last = (np.argwhere(frame > 0.5).mean(0)[axis] for frame in alpha)
    assert np.sign(last - first) == sign
    assert motion in caption(scene)


def test_caption_forms():
    scene = sample_scene(0)
    assert scene.backdrop_colour in caption(scene)
    assert "background is transparent" in transparent_caption(scene)
    assert scene.backdrop not in transparent_caption(scene)
    assert scene.colour != scene.backdrop_colour
