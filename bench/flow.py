"""Loops of a flow graph, given as the successors of each node; node 0 is the entry."""

from __future__ import annotations

from collections.abc import Sequence

Graph = Sequence[Sequence[int]]


def natural_loops(successors: Graph) -> list[frozenset[int]]:
    """Loops: a jump back to a node that is passed on every way to the jump, and all that leads to the jump from there.

    Jumps back to the same node make one loop. What cannot be reached counts for nothing.
    """
    order = reverse_postorder(successors)
    rank = {node: i for i, node in enumerate(order)}
    predecessors: dict[int, list[int]] = {node: [] for node in order}
    for node in order:
        for following in successors[node]:
            predecessors[following].append(node)
    above = _immediate_dominators(order, rank, predecessors)
    bodies: dict[int, set[int]] = {}
    for node in order:
        for head in successors[node]:
            if _dominates(head, node, rank, above):
                _add_what_leads_to(node, bodies.setdefault(head, {head}), predecessors)
    return [frozenset(body) for body in bodies.values()]


def reverse_postorder(successors: Graph) -> list[int]:
    """What can be reached from the entry, a node before what follows it, jumps back aside."""
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(successors[0]))]
    while stack:
        node, rest = stack[-1]
        following = next((s for s in rest if s not in seen), None)
        if following is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    return order[::-1]


def _immediate_dominators(order: list[int], rank: dict[int, int], predecessors: dict[int, list[int]]) -> dict[int, int]:
    """The last node that is passed on every way to each node (Cooper, Harvey and Kennedy, 2001)."""
    above = {0: 0}
    has_changed = True
    while has_changed:
        has_changed = False
        for node in order[1:]:
            first, *others = (p for p in predecessors[node] if p in above)
            for other in others:
                while first != other:
                    if rank[first] > rank[other]:
                        first = above[first]
                    else:
                        other = above[other]  # noqa: PLW2901
            if above.get(node) != first:
                above[node] = first
                has_changed = True
    return above


def _dominates(head: int, node: int, rank: dict[int, int], above: dict[int, int]) -> bool:
    while rank[node] > rank[head]:
        node = above[node]
    return node == head


def _add_what_leads_to(node: int, body: set[int], predecessors: dict[int, list[int]]) -> None:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in body:
            body.add(one)
            waiting += predecessors[one]
