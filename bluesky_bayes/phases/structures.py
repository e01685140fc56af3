"""Candidate structures: reflections with their strengths, calculated from CIF files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.radiation import Radiation

NON_METALS = "B Si C Sb As P N H Te Se S At I Br Cl O F".split()
"""Order of the right-hand side of formulas, as IUPAC's."""
THERMAL = 0.6
"""Isotropic displacement B in Angstrom^2, at room temperature typical of oxides and metals."""
ALIKE = 1e-5
"""Relative difference of 1/d below which reflections coincide."""
FAINT = 1e-4
"""Share of the strongest line below which a reflection is left out."""
EQUAL = 1e-3
"""Relative difference below which two axes count as equal, and an angle as right (per 90 degrees)."""
MOST_ATOMS = 3000
"""In one cell."""
CHUNK = 2_000_000
ISOTROPIC = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
"""Change of a cell whose axes all grow alike, as `strained` takes it."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A crystal structure as a powder pattern sees it.

    Attributes
    ----------
    name, formula : str
    elements : tuple of str
    cell : (6,) float
        a, b, c in Angstrom, angles in degrees.
    mass : float
        Of the unit cell's content, atomic mass units.
    hkl : (n, 3) float
        Miller indices, one for each set of reflections that coincide.
    q : (n,) float
        1/d, 1/Angstrom, ascending.
    power : (n,) float
        Multiplicity times structure factor squared, electrons^2.
    notes : tuple of str
        What was assumed, such as averaged occupancies.
    """

    name: str
    formula: str
    elements: tuple[str, ...]
    cell: Array
    mass: float
    hkl: Array
    q: Array
    power: Array
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Name, formula and lattice."""
        return f"<Structure {self.name!r}: {self.formula}, {self.lattice}, {self.q.size} lines>"

    @property
    def volume(self) -> float:
        """Of the unit cell, Angstrom^3."""
        return 1.0 / math.sqrt(np.linalg.det(reciprocal_metric(self.cell)))

    @property
    def lattice(self) -> str:
        """Lattice system that the cell's lengths and angles have."""
        return lattice_of(self.cell)[0]

    @cached_property
    def strains(self) -> Array:
        """Relative change of 1/d of each reflection with each free strain of the cell, (n_strains, n).

        The first strain is isotropic, a relative change of all axes; the others change one axis (or one group of equal
        axes), or an angle in radians, by themselves.
        """
        return np.array([_slope(self.cell, self.hkl, change) for change in self._changes])

    def moved(self, strains: Array) -> Array:
        """The cell with strains as :attr:`strains` orders them."""
        return strained(self.cell, np.tensordot(strains, self._changes, 1))

    @property
    def _changes(self) -> Array:
        return np.array([ISOTROPIC, *lattice_of(self.cell)[1]])


def strained(cell: Array, change: Array) -> Array:
    """A cell with relative changes of its lengths, and of its angles in radians."""
    return np.concatenate([cell[:3] * (1.0 + change[:3]), cell[3:] + np.degrees(change[3:])])


def reciprocal_metric(cell: Array) -> Array:
    """Metric tensor of the reciprocal lattice: ``1/d^2 = h . G . h``."""
    lengths, angles = np.asarray(cell[:3]), np.radians(cell[3:])
    cosines = np.eye(3)
    cosines[1, 2] = cosines[2, 1] = math.cos(angles[0])
    cosines[0, 2] = cosines[2, 0] = math.cos(angles[1])
    cosines[0, 1] = cosines[1, 0] = math.cos(angles[2])
    return np.asarray(np.linalg.inv(cosines * np.outer(lengths, lengths)))


def lattice_of(cell: Array) -> tuple[str, list[Array]]:
    """Lattice system by the lengths and angles of the cell, and its free changes besides an isotropic one.

    Each change is (6,): relative for lengths, radians for angles.
    """
    a, b, c, *angles = (float(value) for value in cell)
    right = [abs(angle - 90.0) < 90.0 * EQUAL for angle in angles]
    ab, bc, ac = (abs(p - q) < EQUAL * p for p, q in ((a, b), (b, c), (a, c)))
    unit = np.eye(6)
    if all(right):
        if ab and bc:
            return "cubic", []
        if ab or bc or ac:
            return "tetragonal", [unit[2 if ab else 0 if bc else 1]]
        return "orthorhombic", [unit[1], unit[2]]
    if ab and right[0] and right[1] and abs(angles[2] - 120.0) < 90.0 * EQUAL:
        return "hexagonal", [unit[2]]
    if ab and bc and max(angles) - min(angles) < 90.0 * EQUAL:
        return "rhombohedral", [unit[3] + unit[4] + unit[5]]
    if sum(right) == 2:
        return "monoclinic", [unit[1], unit[2], unit[3 + right.index(False)]]
    return "triclinic", [*unit[1:]]


def _slope(cell: Array, hkl: Array, change: Array) -> Array:
    step = 1e-5
    logs = []
    for sign in (1.0, -1.0):
        metric = reciprocal_metric(strained(cell, sign * step * change))
        logs.append(0.5 * np.log(np.einsum("ni,ij,nj->n", hkl, metric, hkl)))
    return np.asarray((logs[0] - logs[1]) / (2.0 * step))


def structures_in(
    text: str, name: str, radiation: Radiation, d_min: float, thermal: float = THERMAL
) -> list[Structure]:
    """Structures in the text of one CIF file.

    Parameters
    ----------
    text, name : str
        Content of the file, and its name without the ending.
    radiation : Radiation
        For the resonant part of the scattering factors; of its first line.
    d_min : float
        Smallest spacing, Angstrom.
    thermal : float
        B in Angstrom^2 of atoms whose own is not given.

    Raises
    ------
    ValueError
        When there is no structure in it that can be calculated: the sentence says what is missing.
    """
    import gemmi

    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"it is no CIF: {str(error).splitlines()[0]}") from error
    small = [gemmi.make_small_structure_from_block(block) for block in document]
    small = [structure for structure in small if structure.sites]
    if not small:
        raise ValueError("it has no atoms (no _atom_site_fract_x ...)")
    names = [name] if len(small) == 1 else [f"{name}_{structure.name or n}" for n, structure in enumerate(small)]
    return [_structure(one, label, radiation, d_min, thermal) for one, label in zip(small, names, strict=True)]


def _structure(small: Any, name: str, radiation: Radiation, d_min: float, thermal: float) -> Structure:
    import gemmi

    cell = np.array(small.cell.parameters)
    if not small.cell.is_crystal() or not (np.all(cell[:3] > 1.0) and small.cell.volume > 5.0):
        raise ValueError("it has no unit cell (_cell_length_a ...)")
    guessed = _guess_elements(small.sites)
    atoms = [atom for atom in small.get_all_unit_cell_sites() if atom.occ > 0.0]
    if len(atoms) > MOST_ATOMS:
        raise ValueError(f"its cell has {len(atoms)} atoms, more than the {MOST_ATOMS} that are sensible here")
    unknown = sorted({atom.label for atom in atoms if atom.element.atomic_number == 0})
    if unknown:
        raise ValueError(f"it has atoms of no known element: {', '.join(unknown[:5])}")
    content: dict[str, float] = {}
    for atom in atoms:
        content[atom.element.name] = content.get(atom.element.name, 0.0) + atom.occ
    mass = sum(number * gemmi.Element(element).weight for element, number in content.items())
    # Half of the sphere: the other half is that of the Friedel mates, which power counts.
    hkl = np.array(gemmi.make_miller_array(small.cell, gemmi.SpaceGroup("P 1"), d_min, unique=True), np.float64)
    q = np.sqrt(np.einsum("ni,ij,nj->n", hkl, reciprocal_metric(cell), hkl))
    power = _power(atoms, hkl, q, radiation, thermal)
    order = np.argsort(q)
    hkl, q, power = hkl[order], q[order], power[order]
    first = np.flatnonzero(np.diff(q, prepend=0.0) > ALIKE * q)
    power = np.add.reduceat(power, first)
    # A set of coinciding reflections goes by its strongest, or by any where symmetry makes them equal.
    hkl, q = hkl[first], q[first]
    strength = power * radiation.lorentz_polarisation(q)
    keep = strength > FAINT * strength.max()
    notes = ["sites of partial occupancy are averaged"] if any(atom.occ < 0.999 for atom in atoms) else []
    notes += [f"{label} is taken for {element}" for label, element in guessed.items()]
    return Structure(
        name, formula_of(content), tuple(sorted(content)), cell, mass, hkl[keep], q[keep], power[keep], tuple(notes)
    )


def _guess_elements(sites: Any) -> dict[str, str]:
    """Elements of sites whose labels name none: "OA" is oxygen, "Wat" the oxygen of water."""
    import gemmi

    guessed = {}
    for site in sites:
        letters = site.label.rstrip("0123456789'")
        if site.element.atomic_number == 0 and letters:
            symbol = "O" if letters.lower() in ("wat", "oh", "ow", "h2o") else letters[0].upper()
            if gemmi.Element(symbol).atomic_number > 0:
                site.element = gemmi.Element(symbol)
                guessed[site.label] = symbol
    return guessed


def _power(atoms: list[Any], hkl: Array, q: Array, radiation: Radiation, thermal: float) -> Array:
    """|F|^2 of each reflection and its Friedel mate together."""
    import gemmi

    kinds = sorted({atom.element.name for atom in atoms})
    s2 = 0.25 * q**2
    factors, resonant = np.empty((len(kinds), q.size)), np.empty(len(kinds))
    for n, kind in enumerate(kinds):
        element = gemmi.Element(kind)
        *pairs, constant = element.it92.get_coefs()
        real, imaginary = gemmi.cromer_liberman(z=element.atomic_number, energy=radiation.energy)
        factors[n] = constant + real + sum(a * np.exp(-b * s2) for a, b in zip(pairs[:4], pairs[4:], strict=True))
        resonant[n] = imaginary
    kind_of = np.array([kinds.index(atom.element.name) for atom in atoms])
    places = np.array([atom.fract.tolist() for atom in atoms])
    occupancy = np.array([atom.occ for atom in atoms])
    own = 8.0 * math.pi**2 * np.array([atom.u_iso for atom in atoms])
    b = np.where((own > 0.05) & (own < 5.0), own, thermal)
    total = np.empty(q.size)
    step = max(1, CHUNK // len(atoms))
    for start in range(0, q.size, step):
        part = slice(start, start + step)
        waves = np.exp(2j * math.pi * hkl[part] @ places.T - np.outer(s2[part], b)) * occupancy
        elastic, absorbed = (waves * factors[:, part][kind_of].T).sum(1), waves @ resonant[kind_of]
        total[part] = 2.0 * (np.abs(elastic) ** 2 + np.abs(absorbed) ** 2)
    return total


def formula_of(content: dict[str, float]) -> str:
    """Formula of a cell's content: metals first, whole numbers divided by what they share."""
    rounded = {element: round(number, 2) for element, number in content.items() if number > 0.004}
    if all(abs(number - round(number)) < 0.02 for number in rounded.values()):
        shared = math.gcd(*(round(number) for number in rounded.values())) or 1
        rounded = {element: round(number) / shared for element, number in rounded.items()}
    else:
        least = min(rounded.values())
        rounded = {element: round(number / least, 2) for element, number in rounded.items()}
    order = sorted(rounded, key=lambda e: (NON_METALS.index(e) + 1 if e in NON_METALS else 0, e))
    return "".join(element + (f"{rounded[element]:g}" if rounded[element] != 1 else "") for element in order)
