"""The decoder half of the transformer, with a cache to decode from."""

from __future__ import annotations

from typing import Literal, Self, overload

import numpy as np
import numpy.typing as npt

from attnx.layers.decoder_cache import DecoderCache
from attnx.layers.decoder_layer import TransformerDecoderLayer
from attnx.layers.decoder_pass import Stack, Targets, as_limits, decode, decode_cached
from attnx.layers.module import FloatArray, Module, as_input, as_size
from attnx.layers.norm import LayerNorm


class TransformerDecoder(Module):
    """A stack of decoder layers.

    Parameters
    ----------
    decoder_layer : TransformerDecoderLayer
        The layer to stack. As in PyTorch, the stack begins with copies of it.
    num_layers : int
        How many.
    norm : LayerNorm, optional
        Applied after the last layer.

    Notes
    -----
    Parameters are those of ``torch.nn.TransformerDecoder``: ``layers.0.*`` and so on, ``norm.*``. In
    the state dict of a ``torch.nn.Transformer`` they stand behind the prefix ``decoder.``, those of
    a `TransformerEncoder` behind ``encoder.``; both have a norm there::

        part = {name.removeprefix("decoder."): array
                for name, array in state.items() if name.startswith("decoder.")}

    PyTorch has no cache: it computes all positions again for every token.

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
    >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=3)
    >>> tgt, memory = np.ones((2, 4, 8), np.float32), np.ones((2, 5, 8), np.float32)
    >>> whole = decoder(tgt, memory, tgt_is_causal=True)
    >>> cache = decoder.make_cache(memory, capacity=4)
    >>> steps = [decoder(tgt[:, i : i + 1], cache=cache) for i in range(4)]
    >>> bool((np.concatenate(steps, axis=1) == whole).all())
    True
    """

    def __init__(
        self,
        decoder_layer: TransformerDecoderLayer,
        num_layers: int,
        norm: LayerNorm | None = None,
    ) -> None:
        if not isinstance(decoder_layer, TransformerDecoderLayer):
            raise TypeError(
                "decoder_layer must be a TransformerDecoderLayer, "
                f"got {type(decoder_layer).__name__}"
            )
        if norm is not None and not isinstance(norm, LayerNorm):
            raise TypeError(f"norm must be a LayerNorm or None, got {type(norm).__name__}")
        self.num_layers = as_size("num_layers", num_layers)
        self.layers = [decoder_layer._copy() for _ in range(self.num_layers)]
        self.norm = None if norm is None else norm._copy()

    def _children(self) -> list[tuple[str, Module]]:
        children: list[tuple[str, Module]] = [
            (f"layers.{number}", layer) for number, layer in enumerate(self.layers)
        ]
        return children if self.norm is None else [*children, ("norm", self.norm)]

    def _copy(self) -> Self:
        return type(self)(self.layers[0], self.num_layers, self.norm)

    @overload
    def __call__(
        self,
        tgt: npt.ArrayLike,
        memory: npt.ArrayLike | None = ...,
        tgt_mask: npt.ArrayLike | None = ...,
        memory_mask: npt.ArrayLike | None = ...,
        *,
        tgt_lengths: npt.ArrayLike | None = ...,
        memory_lengths: npt.ArrayLike | None = ...,
        tgt_is_causal: bool = ...,
        cache: DecoderCache | None = ...,
        need_weights: Literal[False] = ...,
    ) -> FloatArray: ...

    @overload
    def __call__(
        self,
        tgt: npt.ArrayLike,
        memory: npt.ArrayLike | None = ...,
        tgt_mask: npt.ArrayLike | None = ...,
        memory_mask: npt.ArrayLike | None = ...,
        *,
        tgt_lengths: npt.ArrayLike | None = ...,
        memory_lengths: npt.ArrayLike | None = ...,
        tgt_is_causal: bool = ...,
        cache: DecoderCache | None = ...,
        need_weights: Literal[True],
    ) -> tuple[FloatArray, FloatArray]: ...

    def __call__(
        self,
        tgt: npt.ArrayLike,
        memory: npt.ArrayLike | None = None,
        tgt_mask: npt.ArrayLike | None = None,
        memory_mask: npt.ArrayLike | None = None,
        *,
        tgt_lengths: npt.ArrayLike | None = None,
        memory_lengths: npt.ArrayLike | None = None,
        tgt_is_causal: bool = False,
        cache: DecoderCache | None = None,
        need_weights: bool = False,
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Return the output of the last layer, normalised where there is a norm.

        Parameters
        ----------
        tgt : array_like
            Shape (..., L, d_model), float32; the leading axes are the batch.
        memory : array_like, optional
            Shape (..., S, d_model) with the same batch axes: what an encoder left. Given unless
            there is a cache.
        tgt_mask, memory_mask : array_like, optional
            Broadcastable to (..., nhead, L, L) and (..., nhead, L, S): bool, True where a target may
            attend, or float, added to the scores.
        tgt_lengths, memory_lengths : array_like, optional
            Number of positions of each target and each memory, in the shape of the batch axes.
            Positions past them are not read, targets there come back as 0.
        tgt_is_causal : bool, default False
            Whether target i sees the targets 0 to i only.
        cache : DecoderCache, optional
            Of `make_cache`. Then `tgt` (B, L, d_model) holds the next L positions (of sequence b the
            first tgt_lengths[b]); they are appended, and each attends to all positions up to its
            own. The last axis of `tgt_mask` is the longest length then. `memory` and
            `memory_lengths` may not be given.
        need_weights : bool, default False
            Whether to return the weights of the memory as well.

        Returns
        -------
        output : ndarray
            Shape of `tgt`.
        weights : ndarray
            Shape (num_layers, ..., nhead, L, S), how much each target took of each position of the
            memory; only with `need_weights`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(4, 2, 8), num_layers=2)
        >>> tgt, memory = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
        >>> output, weights = decoder(tgt, memory, tgt_is_causal=True, need_weights=True)
        >>> output.shape, weights.shape
        ((3, 4), (2, 2, 3, 5))
        """
        call, stack = (
            Targets(tgt, tgt_mask, memory_mask, tgt_lengths),
            Stack(self.layers, self.norm),
        )
        weights: list[FloatArray] | None = [] if need_weights else None
        if cache is None:
            output = decode(stack, call, memory, memory_lengths, tgt_is_causal, weights)
        else:
            for name, given in {"memory": memory, "memory_lengths": memory_lengths}.items():
                if given is not None:
                    raise TypeError(f"{name} may not be given with cache, which holds it already")
            if not isinstance(cache, DecoderCache):
                raise TypeError(f"cache must come from make_cache, got {type(cache).__name__}")
            cache._check(self.layers)
            output = decode_cached(stack, call, cache, weights)
        return output if weights is None else (output, np.stack(weights))

    def make_cache(
        self,
        memory: npt.ArrayLike,
        capacity: int,
        *,
        memory_lengths: npt.ArrayLike | None = None,
        beams: int = 1,
    ) -> DecoderCache:
        """Return an empty cache, with the keys and values of the memory projected.

        Parameters
        ----------
        memory : array_like
            Shape (sources, S, d_model), float32: what an encoder left.
        capacity : int
            Most positions a sequence can have.
        memory_lengths : array_like, optional
            (sources,): number of positions of each memory.
        beams : int, default 1
            How many sequences are decoded for each source, next to each other in the batch; they
            share its keys and values.

        Returns
        -------
        DecoderCache
            For sources * beams sequences.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=2)
        >>> decoder.make_cache(np.ones((3, 5, 8), np.float32), 10, memory_lengths=[5, 2, 0])
        DecoderCache(layers=2, batch=3, beams=1, capacity=10, lengths=[0, 0, 0])
        """
        source = as_input("memory", memory, self.layers[0].d_model, least=2)
        if source.ndim != 3:
            raise ValueError(
                f"memory must have shape (sources, length, d_model), got {source.shape}"
            )
        limits = as_limits("memory_lengths", memory_lengths, source)
        return DecoderCache(self.layers, source, capacity, limits, as_size("beams", beams))
