"""What the sounds of training are called: the presets and files of each label, and what people say.

Tables only. A label is the plain name of what sounds; `phrases` gives the ways of saying it.
"""

from __future__ import annotations

# program numbers (from 0) of General MIDI by label; synth leads and pads are one label each
INSTRUMENTS: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3), "electric piano": (4, 5), "harpsichord": (6, 7), "celesta": (8,),
    "glockenspiel": (9,), "music box": (10,), "vibraphone": (11,), "marimba": (12,),
    "xylophone": (13,), "tubular bells": (14,), "dulcimer": (15,), "organ": (16, 17, 18),
    "church organ": (19, 20), "accordion": (21, 23), "harmonica": (22,),
    "acoustic guitar": (24, 25), "electric guitar": (26, 27, 28), "distorted guitar": (29, 30),
    "bass guitar": (32, 33, 34, 35, 36, 37), "synthesizer": (38, 39, 80, 81, 82, 84, 86, 87),
    "violin": (40, 110), "viola": (41,), "cello": (42,), "double bass": (43,),
    "string orchestra": (44, 48, 49), "pizzicato strings": (45,), "harp": (46,),
    "timpani": (47,), "choir": (52, 53, 54, 85), "orchestra": (55,), "trumpet": (56, 59),
    "trombone": (57,), "tuba": (58,), "french horn": (60,), "brass band": (61, 62, 63),
    "saxophone": (64, 65, 66, 67), "oboe": (68, 69), "bassoon": (70,), "clarinet": (71,),
    "piccolo": (72,), "flute": (73, 77), "pan flute": (75,), "recorder": (74,), "blowing a bottle": (76,),
    "whistle": (78,), "ocarina": (79,), "ambient music": (88, 89, 91, 92, 94, 95, 99, 101),
    "sitar": (104,), "banjo": (105,), "shamisen": (106,), "koto": (107,), "kalimba": (108,),
    "bagpipes": (109,), "small bell": (112,), "cowbell": (113,), "steel drum": (114,),
    "wood block": (115,), "taiko drum": (116,), "tom drum": (117, 118), "sea waves": (122,),
    "bird": (123,), "telephone": (124,), "helicopter": (125,), "applause": (126,),
    "gunshot": (127,),
}  # fmt: skip

REGISTER = {
    "bass guitar": -20, "double bass": -20, "tuba": -18, "cello": -10, "bassoon": -10, "timpani": -16,
    "trombone": -8, "violin": 10, "flute": 10, "piccolo": 18, "glockenspiel": 18, "xylophone": 10,
    "celesta": 10, "music box": 10, "recorder": 8, "ocarina": 8, "small bell": 10,
}  # fmt: skip
"""Semitones from the middle of the keyboard to where an instrument is at home."""

# (bank, program) of the sound effects in the GS bank
EFFECTS: dict[str, tuple[tuple[int, int], ...]] = {
    "rain": ((1, 122),), "thunder": ((2, 122),), "wind": ((3, 122),), "stream": ((4, 122),),
    "bubbles": ((5, 122),), "dog": ((1, 123),), "horse": ((2, 123),), "bird": ((3, 123),),
    "telephone": ((1, 124),), "creaking door": ((2, 124),), "slamming door": ((3, 124),),
    "record scratch": ((4, 124),), "wind chimes": ((5, 124),), "car engine": ((1, 125),),
    "braking car": ((2, 125),), "passing car": ((3, 125),), "car crash": ((4, 125),),
    "siren": ((5, 125),), "train": ((6, 125),), "airplane": ((7, 125),), "laughter": ((1, 126),),
    "scream": ((2, 126),), "heartbeat": ((4, 126),), "footsteps": ((5, 126),),
    "machine gun": ((1, 127),), "laser gun": ((2, 127),), "explosion": ((3, 127),),
}  # fmt: skip

# keys of the drum channel
DRUMS: dict[str, tuple[int, ...]] = {
    "bass drum": (35, 36), "snare drum": (38, 40), "clapping": (39,), "hi-hat": (42, 44, 46),
    "cymbal": (49, 52, 55, 57, 51, 59), "tom drum": (41, 43, 45, 47, 48, 50),
    "tambourine": (54,), "cowbell": (56,), "bongo drum": (60, 61, 62, 63, 64),
    "maracas": (69, 70), "wood block": (75, 76, 77), "triangle": (80, 81), "whistle": (71, 72),
}  # fmt: skip
KITS = (0, 8, 16, 24, 25, 32, 40, 48)

# prefixes of Sonic Pi's file names; files that match none are left out (no everyday name)
SONIC: dict[str, tuple[str, ...]] = {
    "bass drum": ("bd_", "drum_heavy_kick", "drum_bass"), "snare drum": ("sn_", "drum_snare"),
    "tom drum": ("drum_tom",), "cymbal": ("drum_cymbal", "drum_splash", "ride_"),
    "cowbell": ("drum_cowbell",), "hi-hat": ("hat_",), "drum roll": ("drum_roll",),
    "tabla": ("tabla_",), "electric guitar": ("guit_",), "choir": ("ambi_choir",),
    "piano": ("ambi_piano",), "small bell": ("perc_bell", "elec_bell", "elec_chime"),
    "triangle": ("elec_triangle",), "wood block": ("elec_wood",), "beep": ("elec_beep",),
    "snapping fingers": ("perc_snap",), "cash register": ("perc_till",),
    "slamming door": ("perc_door",), "burp": ("misc_burp",), "crow": ("misc_crow",),
    "record scratch": ("vinyl_scratch", "vinyl_backspin", "vinyl_rewind"),
    "static noise": ("vinyl_hiss",), "synthesizer": ("bass_",),
    "robot": ("mehackit_robot",),
    "drum beat": ("loop_breakbeat", "loop_tabla", "loop_perc", "loop_safari", "loop_electric",
                  "loop_industrial", "loop_compus", "loop_mika"),
    "3d printer": ("loop_3d_printer",),
}  # fmt: skip

_PLAYED = ("{0}", "a {0}", "the sound of a {0}", "someone playing the {0}", "{0} music")
_PHRASES: dict[str, tuple[str, ...]] = {
    "rain": ("rain", "rain falling", "the sound of rain", "heavy rain"),
    "wind": ("wind", "the wind blowing", "the sound of wind", "a storm"),
    "thunder": ("thunder", "a clap of thunder", "the sound of thunder", "a thunderstorm"),
    "stream": ("stream", "flowing water", "the sound of running water", "a river"),
    "sea waves": ("sea waves", "ocean waves", "the sound of the sea", "waves on the beach"),
    "fire": ("fire", "a crackling fire", "the sound of a fire", "a campfire"),
    "dog": ("dog", "a dog", "a dog barking", "the sound of a dog barking"),
    "cat": ("cat", "a cat", "a cat meowing", "the sound of a cat"),
    "cow": ("cow", "a cow", "a cow mooing", "the sound of a cow"),
    "sheep": ("sheep", "a sheep", "a sheep bleating", "the sound of a sheep"),
    "horse": ("horse", "a horse", "a horse galloping", "the sound of hooves"),
    "bird": ("bird", "a bird", "a bird singing", "birds chirping"),
    "owl": ("owl", "an owl", "an owl hooting"), "frog": ("frog", "a frog", "a frog croaking"),
    "crow": ("crow", "a crow", "a crow cawing"),
    "cricket": ("cricket", "a cricket", "crickets chirping", "an insect"),
    "bee": ("bee", "a bee", "a bee buzzing", "a buzzing insect"),
    "speech": ("speech", "a person speaking", "someone talking", "a human voice"),
    "laughter": ("laughter", "a person laughing", "people laughing"),
    "scream": ("scream", "a person screaming", "a woman screaming"),
    "crying baby": ("crying baby", "a baby crying", "the sound of a baby", "a baby"),
    "applause": ("applause", "people clapping", "a crowd applauding", "an audience"),
    "clapping": ("clapping", "clapping hands", "a hand clap"),
    "choir": ("choir", "a choir singing", "people singing", "a singing voice"),
    "siren": ("siren", "a siren", "an ambulance siren", "a police car", "a fire engine"),
    "alarm": ("alarm", "an alarm", "an alarm clock", "a beeping alarm", "the sound of beeping"),
    "clock": ("clock", "a clock", "a clock ticking", "the sound of a ticking clock"),
    "car horn": ("car horn", "a car horn", "a car honking"),
    "car engine": ("car engine", "an engine", "a car", "the sound of an engine"),
    "passing car": ("passing car", "a car passing by", "a car", "traffic"),
    "braking car": ("braking car", "a car", "screeching tyres"),
    "car crash": ("car crash", "a car accident", "a crash"),
    "train": ("train", "a train", "a train passing by", "the sound of a train"),
    "airplane": ("airplane", "an airplane", "a jet plane flying", "the sound of an aircraft"),
    "helicopter": ("helicopter", "a helicopter", "the sound of a helicopter"),
    "telephone": ("telephone", "a telephone", "a phone ringing", "the sound of a telephone"),
    "doorbell": ("doorbell", "a doorbell", "a doorbell ringing"),
    "door knock": ("door knock", "knocking on a door", "someone knocking at the door"),
    "creaking door": ("creaking door", "a door creaking", "a door"),
    "slamming door": ("slamming door", "a door slamming", "a door"),
    "footsteps": ("footsteps", "a person walking", "the sound of footsteps"),
    "heartbeat": ("heartbeat", "a heart beating", "the sound of a heartbeat"),
    "keyboard typing": ("keyboard typing", "typing on a keyboard", "a keyboard"),
    "gunshot": ("gunshot", "a gun", "a gunshot", "the sound of a gun"),
    "machine gun": ("machine gun", "a machine gun", "a gun firing"),
    "explosion": ("explosion", "an explosion", "a bomb", "the sound of an explosion"),
    "breaking glass": ("breaking glass", "glass breaking", "glass shattering"),
    "silence": ("silence", "quiet", "nothing to hear"),
    "static noise": ("static noise", "white noise", "static", "hiss"),
    "saw": ("saw", "a saw", "someone sawing wood"), "hammer": ("hammer", "a hammer", "hammering"),
    "drill": ("drill", "a drill", "an electric drill", "a power tool"),
    "vacuum cleaner": ("vacuum cleaner", "a vacuum cleaner", "the sound of a vacuum cleaner"),
    "bubbles": ("bubbles", "bubbles in water", "bubbling water"),
    "whistle": ("whistle", "a person whistling", "whistling", "a whistle"),
    "church bell": ("church bell", "a bell", "church bells ringing", "a bell ringing"),
    "small bell": ("small bell", "a bell", "a little bell ringing"),
    "cash register": ("cash register", "a cash register"), "burp": ("burp", "a person burping"),
    "snapping fingers": ("snapping fingers", "fingers snapping"),
    "ambient music": ("ambient music", "calm electronic music", "synthesizer music"),
    "drum beat": ("drum beat", "drums", "a drummer", "someone playing the drums"),
}  # fmt: skip


def phrases(label: str) -> tuple[str, ...]:
    """What people would say of a sound with this label; the first is its plain name."""
    if label in _PHRASES:
        return _PHRASES[label]
    played = any(label in table for table in (INSTRUMENTS, DRUMS)) or label == "tabla"
    shapes = _PLAYED if played else ("{0}", "a {0}", "the sound of a {0}")
    return tuple(shape.format(label) for shape in shapes)
