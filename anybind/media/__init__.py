"""The one place that opens files of users.

Allow-listed formats, told by their first bytes (or by what the caller says they are); size, pixel,
duration and point caps checked before anything is decoded; no URL is ever fetched. Whatever goes
wrong is one plain `UserError` that names the file. One module a kind; importing this loads no
decoder.
"""

from anybind.media.audio import decode_audio
from anybind.media.caps import CAPS, Caps
from anybind.media.depth import decode_depth
from anybind.media.files import from_value, open_file
from anybind.media.formats import PREFIXES, SUFFIXES, looks_like_path, sniff, split_prefix
from anybind.media.formats import with_prefix as with_prefix
from anybind.media.image import decode_image
from anybind.media.imu import decode_imu
from anybind.media.points import decode_points
from anybind.media.thermal import decode_thermal
from anybind.media.video import decode_video, encode_video

__all__ = [
    "CAPS", "PREFIXES", "SUFFIXES", "Caps", "decode_audio", "decode_depth", "decode_image",
    "decode_imu", "decode_points", "decode_thermal", "decode_video", "encode_video", "from_value",
    "looks_like_path", "open_file", "sniff", "split_prefix", "with_prefix",
]  # fmt: skip
