"""The recording: one HDF5 file, format 1, sample first, readable with plain h5py, MATLAB or h5ls.

The tree (a preset in brackets means: from that preset on; `stats` < `counts` < `spikes` < `full`)::

    /                    attrs: format="probe-recording" format_version=1 run_id created_by created_utc command complete
                         timesteps samples asked family method model checkpoint_sha256 data split seed record grid
                         per_sample classes batch_size has_ann torch_version device; model_args (JSON)
                         code_digest weights_digest data_digest selection_digest (BLAKE2b); seal; parts (JSON) and
                         parts_folder where the arrays lie in part files
    /samples             index label digest_ann digest_snn, each (sample,)
    /output              ann (sample, class)   snn (sample, timestep, class): logits as the network gives them
    /facts               JSON text: modes calls order pairs unpaired operations on_spikes cost fed law oracles ...
    /layers/<index>      attrs: name snn_name module neuron levels (0: ReLU or none) paired reset shape layout traits
                         encoding initial_fraction
        threshold, initial_potential, height    float32, broadcastable to (sample, *neuron)
        spike_count  ann_output  input_sum       (sample, *neuron)                       [counts]
        silenced     (sample, byte), bits, SRP only                                      [counts]
        snn_spikes   (sample, timestep, byte), bits; int8 (sample, timestep, *neuron) where signed or graded  [spikes]
        ann_input    (sample, *neuron)   snn_input (sample, timestep, *neuron)           [full]
        membrane_potential   (sample, timestep, *neuron), v(t) as the module shows it, only where the conservation
                     law does not rebuild it and the module shows it                     [full]
        statistics/  timestep (grid,), and for each t of the grid the fields of `probe.attribution.Statistics`, sums
                     (grid, 5) = Σn Σk Σn² Σk² Σnk, offset_spikes (grid, key); for every t spikes_at (timestep,);
                     spikes_per_neuron (*neuron); per_sample (sample, per_sample_timestep, 5), the same sums;
                     per_sample_timestep; first_input (2, channel): the smallest x(1) that fired, the largest that did
                     not, NaN where there is none

What belongs to the ANN (`output/ann`, `samples/digest_ann`, `ann_output`, `ann_input`) is absent where there is none.

Encodings. `ann_output` with attribute ``encoding="levels"`` holds k, and a = (threshold · k) / levels in float32, in
this order of operations, with ``"levels-first"`` a = (k / levels) · threshold; else (``"raw"``) it holds a itself.
`snn_spikes` and `silenced` as bits: see `probe.spikes`. `snn_input` with the shape (sample, 1, *neuron) was the same at
every t. The `statistics` of a ReLU layer have sums of fractions (`moments`, `products`, `sums`) as limbs, a last axis
of whole numbers l[i] that stand for Σ l[i]·2^(32·i - 128), so that parts add up exactly; `sums_are` says which it is.
Floats are raw, whole numbers deflated (in `full`, n and k are raw too). Every dataset carries fletcher32 checksums but
for single numbers and texts, which HDF5 cannot check; `seal` is a SHA-256 over those, all attributes, shapes and types.

Long recordings are written in parts (`writer`): `recording.h5` then is an index of virtual datasets over
`recording.h5.parts/`, and the reader makes sure of every part before it believes a byte.
"""

from probe.recording.reader import Layer, Recording, open_recording
from probe.recording.schema import PRESETS, Batch, LayerInfo, RunInfo
from probe.recording.writer import Writer

__all__ = ["PRESETS", "Batch", "Layer", "LayerInfo", "Recording", "RunInfo", "Writer", "open_recording"]
