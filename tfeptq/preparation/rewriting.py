"""Rewrites a graph in time that is in proportion to what changes.

Whoever asks all nodes for the readers of one, or walks through all of them to replace one, takes
the square of a network's size: unrolled recurrent layers have thousands of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfeptq.preparation.nodes import Graph, Node, Weights


class Rewriting:
    """Knows who reads a node, and who holds an array of weights, while nodes come and go.

    All changes of `inputs` have to be made by its methods. Nodes that nothing reads any more are
    forgotten, and read nothing.

    Example:
        >>> from tfeptq.preparation.nodes import Input, affine
        >>> source = Node(Input, "source", [], (2,))
        >>> twice = affine(source, "twice", 2.0, 0.0)
        >>> four_times = affine(twice, "four_times", 2.0, 0.0)
        >>> rewriting = Rewriting(Graph("model", [source], [four_times]))
        >>> rewriting.replace(twice, source)
        >>> [reader.name for reader in rewriting.readers(source)], twice in rewriting
        (['four_times'], False)
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._readers: dict[Node, list[Node]] = {}
        self._holders: dict[Weights, list[Node]] = {}
        for node in graph.nodes():
            self._add(node)

    def __contains__(self, node: Node) -> bool:
        return node in self._readers

    def readers(self, node: Node) -> list[Node]:
        """Nodes that read it, once for each of their inputs that it is."""
        return self._readers[node]

    def has_one_reader(self, node: Node) -> bool:
        """Whether another node reads it, and nobody else."""
        return len(self._readers[node]) == 1 and node not in self.graph.outputs

    def holders(self, weights: Weights) -> list[Node]:
        """The calls of the layer that has these weights."""
        return self._holders[weights]

    def replace(self, old: Node, new: Node) -> None:
        """Makes every reader of `old` read `new`, but for `new` itself."""
        readers = [reader for reader in self._readers[old] if reader is not new]
        self._readers[old] = [reader for reader in self._readers[old] if reader is new]
        for reader in dict.fromkeys(readers):
            reader.inputs = [new if source is old else source for source in reader.inputs]
        outputs = self.graph.outputs
        self.graph.outputs = [new if node is old else node for node in outputs]
        self._add(new)
        self._readers[new].extend(readers)
        self._forget(old)

    def rewire(self, node: Node, inputs: Sequence[Node]) -> None:
        """Makes a node read others than it did."""
        before, node.inputs = node.inputs, list(inputs)
        for source in node.inputs:
            self._add(source)
            self._readers[source].append(node)
        self._leave(node, before)

    def settle(self, step: Callable[[Node], bool]) -> None:
        """Has `step` change what it finds at a node, and says so, until it finds nothing more."""
        is_changed = True
        while is_changed:
            is_changed = False
            for node in self.graph.nodes():
                while node in self and step(node):
                    is_changed = True

    def _add(self, node: Node) -> None:
        """A node, and what it reads, as far as they are new."""
        found: list[Node] = []
        stack = [node]
        while stack:
            node = stack.pop()
            if node not in self:
                self._readers[node] = []
                found.append(node)
                stack.extend(node.inputs)
        for node in found:
            if node.weights is not None:
                self._holders.setdefault(node.weights, []).append(node)
            for source in node.inputs:
                self._readers[source].append(node)

    def _leave(self, node: Node, sources: Sequence[Node]) -> None:
        """A node no longer reads some that it did."""
        for source in sources:
            self._readers[source].remove(node)
        for source in sources:
            self._forget(source)

    def _forget(self, node: Node) -> None:
        """A node that nothing reads, and what only it has read."""
        stack = [node]
        while stack:
            node = stack.pop()
            if node not in self or self._readers[node] or self._is_end(node):
                continue
            del self._readers[node]
            if node.weights is not None:
                self._holders[node.weights].remove(node)
            for source in node.inputs:
                self._readers[source].remove(node)
            stack.extend(node.inputs)

    def _is_end(self, node: Node) -> bool:
        return node in self.graph.outputs or node in self.graph.inputs
