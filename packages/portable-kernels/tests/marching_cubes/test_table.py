from __future__ import annotations

import pytest

from portable_kernels.marching_cubes import table


def _crossed(case: int) -> set[int]:
    return {
        edge
        for edge in range(12)
        if (case >> table.EDGE_START[edge] ^ case >> (table.EDGE_START[edge] | 1 << table.EDGE_AXIS[edge]))
        & 1
    }


@pytest.mark.parametrize("case", range(256))
def test_triangles_use_just_the_crossed_edges(case: int) -> None:
    used = {edge for triangle in table.triangles_of(case) for edge in triangle}
    assert used == _crossed(case)
    assert len(table.triangles_of(case)) <= table.MOST_TRIANGLES


@pytest.mark.parametrize("case", range(256))
def test_sides_inside_the_cube_are_shared_and_no_other_lies_in_a_face(case: int) -> None:
    sides = [(t[i], t[(i + 1) % 3]) for t in table.triangles_of(case) for i in range(3)]
    assert len(sides) == len(set(sides))
    contours = table._contours(case)
    for a, b in sides:
        if (b, a) in sides:  # a cut through the cube: it must not lie in a face, where a neighbour's might be
            assert not table._share_a_face(a, b)
        else:  # the outline: a contour on a face
            assert contours[a] == b


def test_neighbours_agree_on_every_face() -> None:
    """A contour on a face is that of the neighbour on the opposite face, the other way round, for all corner values."""

    def on_face(case: int, face: tuple[int, ...]) -> set[tuple[int, int]]:
        edges = table._face_edges(face)
        return {(a, b) for a, b in table._contours(case).items() if {a, b} <= edges}

    for axis in table.AXES:
        bit = 1 << axis
        near = next(f for f in table.FACES if not any(c & bit for c in f))
        far = next(f for f in table.FACES if all(c & bit for c in f))
        across = {
            table._edge_between(a, b): table._edge_between(a | bit, b | bit)
            for a in near
            for b in near
            if (a ^ b).bit_count() == 1
        }
        for case in range(256):
            below = sum(1 << (c | bit) for c in range(8) if not c & bit and case >> c & 1)
            for other in (below, below | 0xFF ^ sum(1 << c for c in far)):
                here = {(across[b], across[a]) for a, b in on_face(case, near)}
                assert here == on_face(other, far)


def test_ambiguous_faces_cut_off_the_corners_below() -> None:
    two_below = 1 << 0 | 1 << 3  # opposite corners of the face z = 0
    assert len(table.triangles_of(two_below)) == 2
    assert len(table.triangles_of(0xFF ^ two_below)) == 4


def test_tables_for_the_kernels_hold_the_same() -> None:
    counts, edges = table.triangle_counts(), table.triangle_edges()
    assert edges.shape == (256, 16)
    for case in range(256):
        flat = [edge for triangle in table.triangles_of(case) for edge in triangle]
        assert counts[case] == len(flat) // 3
        assert edges[case].tolist() == flat + [-1] * (16 - len(flat))
