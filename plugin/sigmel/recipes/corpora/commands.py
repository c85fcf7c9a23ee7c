"""Spoken commands to a home assistant: a small grammar of them, and voices of eSpeak NG to say them.

Numbers, times, dates, names, devices, rooms, media, ... A rule is a list of phrases to choose from; ``{rule}`` stands
for a phrase of another rule. Everything is spelt out in lower-case words: no digits, no punctuation.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.resampling import resample
from sigmel.recipes.corpora.espeak import SAMPLE_RATE as ESPEAK_RATE
from sigmel.recipes.corpora.espeak import EspeakVoice, Phone, variants


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.split(",")]


_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)


def spell(number: int) -> str:
    """An integer from 0 to 999 in words: 342 is "three hundred and forty two"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{_ONES[hundreds]} hundred" + (f" and {spell(rest)}" if rest else "")


def spell_ordinal(number: int) -> str:
    """A day of the month, 1 to 31, in words: 22 is "twenty second"."""
    if number <= 20:
        return _ORDINALS[number - 1]
    return "thirtieth" if number == 30 else f"{_TENS[number // 10 - 2]} {_ORDINALS[number % 10 - 1]}"


RULES: dict[str, list[str]] = {
    # what is said; a line is drawn as often as it stands here
    "command": _phrases(
        "{light}, {light}, {device}, {device}, {climate}, {climate}, {media}, {media}, {volume}, {timer}, {timer}, "
        "{alarm}, {alarm}, {calendar}, {calendar}, {call}, {call}, {message}, {weather}, {weather}, {sum}, "
        "{shopping}, "
        "{shopping}, {travel}, {travel}, {cooking}, {question}, {question}, {security}, {cleaning}"
    ),
    "light": [
        "turn {on} the {lamp} in the {room}",
        "switch {on} the {room} {lamp}",
        "turn {on} all the {lamps}",
        "{please} dim the {room} {lamps} to {number} percent",
        "make the {room} {lamp} {colour}",
        "set the {lamp} in the {room} to {colour}",
        "change the {room} {lamps} to {shade} {colour}",
        "is the {room} {lamp} still on",
    ],
    "device": [
        "turn {on} the {appliance}",
        "{please} switch {on} the {appliance} in the {room}",
        "{open} the {opening} in the {room}",
        "{open} the {room} {opening}",
        "start the {appliance} {when}",
        "stop the {appliance} in {small} minutes",
        "did anyone leave the {appliance} running",
        "unplug the {appliance} when it is finished",
    ],
    "climate": [
        "set the temperature to {number} degrees",
        "set the {room} to {number} degrees",
        "make it {small} degrees {warmer}",
        "make the {room} a little {warmer}",
        "turn {up} the heating in the {room}",
        "what is the temperature in the {room}",
        "how {humid} is the {room} right now",
    ],
    "media": [
        "play {some} {genre} music",
        "play {some} {genre} in the {room}",
        "play the {latest} {programme}",
        "{pause} the {programme}",
        "skip to the next {item}",
        "go back to the previous {item}",
        "play {genre} music by {person}",
        "add this {item} to my {mood} list",
        "{please} play something {mood}",
        "repeat the last {item} {small} times",
        "show me the {latest} {programme} on the television",
    ],
    "volume": [
        "turn the volume {up}",
        "set the volume to {number}",
        "turn {up} the volume by {small}",
        "mute the {speaker} in the {room}",
        "make the {speaker} {louder}",
    ],
    "timer": [
        "set a timer for {number} minutes",
        "set a {food} timer for {number} minutes",
        "set a timer for {small} hours and {number} minutes",
        "start a {number} second timer",
        "how much time is left on the {food} timer",
        "add {number} minutes to the {food} timer",
        "cancel the {food} timer",
        "count down from {number}",
    ],
    "alarm": [
        "wake me up at {time}",
        "{please} wake me at {time} {day}",
        "set an alarm for {time}",
        "set an alarm for {time} every {weekday}",
        "cancel my alarm for {weekday}",
        "snooze for {small} minutes",
        "move the alarm from {hour} to {time}",
    ],
    "calendar": [
        "remind me to {task} at {time}",
        "remind me to {task} {day}",
        "book a {meeting} with {person} {day}",
        "schedule a {meeting} for {date}",
        "what is on my calendar for {date}",
        "move the {meeting} with {person} to {weekday}",
        "cancel the {meeting} on {date}",
        "when is the next {meeting} with {person}",
        "when is the birthday of {person}",
        "how many days until {date}",
    ],
    "call": [
        "call {person}",
        "{please} call {person} on the mobile",
        "call {person} at {place}",
        "dial {digit} {digit} {digit} {digit} {digit} {digit}",
        "call {digit} {digit} {digit} {digit} {digit}",
        "the number is {digit} {digit} {digit} {digit}",
        "hang up and call {person} again",
        "answer the phone and tell {person} to wait",
    ],
    "message": [
        "send a message to {person}",
        "text {person} that i am {late}",
        "tell {person} dinner is ready",
        "read my {latest} messages from {person}",
        "reply to {person} that we will be {late}",
        "email {person} about the {meeting}",
    ],
    "weather": [
        "what is the weather in {city}",
        "what is the weather like {day} in {city}",
        "will it {rain} {day}",
        "will it {rain} in {city} {day}",
        "do i need {clothing} {day}",
        "how {cold} will it be in {city}",
        "when does the sun {rise} in {city}",
        "is it going to be {cold} on {weekday}",
    ],
    "sum": [
        "what is {number} plus {number}",
        "what is {number} minus {number}",
        "how much is {number} times {small}",
        "divide {hundreds} by {small}",
        "how many {units} are in {number} {larger_units}",
        "convert {number} {units} to {larger_units}",
    ],
    "shopping": [
        "add {food} to the shopping list",
        "add {small} {container} of {food} to the list",
        "put {food} and {food} on the list",
        "take {food} off the shopping list",
        "order {small} {container} of {food}",
        "do we still have any {food}",
        "how much does the {food} cost",
    ],
    "travel": [
        "how do i get to {city}",
        "how long is the drive to {place}",
        "find the nearest {place}",
        "when does the next {vehicle} leave for {city}",
        "book a {vehicle} to {city} {day}",
        "book a {vehicle} to {city} for {small} people",
        "is there much traffic on the way to {place}",
        "take me to the {place} near {city}",
    ],
    "cooking": [
        "how long should i boil {food}",
        "find a recipe with {food} and {food}",
        "preheat the oven to {hundreds} degrees",
        "what can i cook with {food}",
        "read me the {ordinal} step of the recipe",
    ],
    "question": [
        "what time is it in {city}",
        "what day is {date}",
        "who is {person}",
        "how far is {city} from {city}",
        "tell me a {mood} story about a {animal}",
        "tell me a joke about a {animal}",
        "what sound does a {animal} make",
        "how do you say {animal} in {language}",
        "translate {task} into {language}",
        "what did the {team} score {day}",
    ],
    "security": [
        "{open} the {door} door",
        "did i lock the {door} door",
        "who is at the {door} door",
        "show me the {door} camera",
        "{arm} the burglar alarm {when}",
        "turn {on} the camera in the {room}",
    ],
    "cleaning": [
        "vacuum the {room} {when}",
        "{please} clean the {room} {day}",
        "send the robot to the {room}",
        "water the {plants} in the {room}",
        "empty the {appliance} {when}",
    ],
    # what they speak of
    "on": _words("on on off"),
    "up": _words("up down"),
    "open": _words("open close lock unlock"),
    "arm": _words("arm disarm test"),
    "pause": _words("pause resume stop restart record"),
    "please": _phrases("please, please, could you, would you, can you, i want you to"),
    "some": _words("some more my"),
    "warmer": _words("warmer cooler brighter darker quieter"),
    "louder": _words("louder softer clearer"),
    "humid": _words("warm cold humid dusty bright"),
    "cold": _words("cold hot windy wet cloudy dry foggy icy"),
    "rain": _words("rain snow freeze thunder hail"),
    "rise": _words("rise set"),
    "late": _phrases(
        "late, on my way, almost there, stuck in traffic, at the station, home soon, {number} minutes late"
    ),
    "lamp": _words("light light lamp lantern spotlight"),
    "lamps": _words("lights lights lamps lanterns spotlights"),
    "colour": _words("red blue green yellow orange purple white pink violet turquoise golden"),
    "shade": _words("pale dark soft bright deep"),
    "room": _phrases(
        "kitchen, bathroom, bedroom, living room, dining room, hallway, office, garage, basement, attic, nursery, "
        "garden, balcony, laundry, library, guest room, cellar, porch, workshop, study"
    ),
    "appliance": _phrases(
        "fan, oven, dishwasher, washing machine, dryer, coffee machine, kettle, toaster, heater, television, radio, "
        "air conditioner, printer, computer, projector, sprinkler, fountain, freezer, blender, humidifier, "
        "vacuum, router"
    ),
    "opening": _words("window blinds curtains shutters skylight door"),
    "speaker": _words("speaker speakers television radio headphones"),
    "genre": _words("jazz classical rock country pop folk blues dance opera reggae piano guitar christmas electronic"),
    "programme": _words("news podcast episode movie documentary concert cartoon football game audiobook series"),
    "item": _words("song track chapter episode station video album"),
    "mood": _words("happy relaxing quiet funny sad exciting romantic scary cheerful"),
    "latest": _words("latest newest first last favourite"),
    "person": _words(
        "anna robert maria james linda thomas susan peter laura daniel emma oliver sophia henry alice george victoria "
        "martin julia samuel helen patrick diana walter rebecca vincent charlotte benjamin margaret nicholas grandma "
        "doctor mother father uncle"
    ),
    "city": _phrases(
        "london, paris, berlin, madrid, rome, vienna, tokyo, boston, chicago, denver, dublin, lisbon, "
        "athens, toronto, "
        "sydney, moscow, cairo, oslo, helsinki, amsterdam, new york, san francisco, barcelona, edinburgh, singapore, "
        "montreal, budapest, istanbul"
    ),
    "place": _words(
        "airport hospital school supermarket pharmacy bakery restaurant cinema museum hotel bank station park gym "
        "beach "
        "stadium university market church work home"
    ),
    "vehicle": _words("train bus flight taxi ferry tram"),
    "food": _words(
        "milk bread butter eggs cheese apples bananas tomatoes potatoes onions rice pasta chicken salmon coffee tea "
        "sugar salt pepper yogurt carrots spinach mushrooms lemons oranges honey chocolate cereal garlic "
        "cucumbers soup"
    ),
    "container": _words("bottles boxes bags packets cans kilos"),
    "clothing": _phrases("an umbrella, a jacket, gloves, sunglasses, a scarf, boots, a coat, sunscreen"),
    "task": _phrases(
        "feed the cat, walk the dog, water the plants, take out the trash, buy flowers, pay the rent, "
        "call the dentist, "
        "pick up the children, charge the phone, iron the shirts, bake a cake, clean the windows, wash the car, "
        "take my medicine, renew the passport, fix the bicycle, check the mailbox, return the books"
    ),
    "meeting": _phrases(
        "meeting, lunch, dinner, breakfast, appointment, interview, video call, lesson, party, haircut, workshop, "
        "tennis match"
    ),
    "animal": _words("dog cat horse lion elephant penguin monkey rabbit tiger dolphin parrot donkey zebra frog"),
    "plants": _words("plants flowers trees roses tomatoes ferns"),
    "language": _words("german french spanish italian russian japanese greek dutch swedish turkish"),
    "team": _phrases("home team, national team, tigers, eagles, giants, visitors"),
    "door": _words("front back garage side garden cellar"),
    "units": _words("minutes grams inches meters cents days"),
    "larger_units": _words("hours pounds miles kilometers dollars months"),
    "when": _phrases("now, later, tonight, at {time}, at {time}, in {small} minutes, after dinner, before breakfast"),
    # dates, times and numbers
    "weekday": _words("monday tuesday wednesday thursday friday saturday sunday"),
    "month": _words("january february march april may june july august september october november december"),
    "ordinal": [spell_ordinal(number) for number in range(1, 32)],
    "day": _phrases(
        "today, tomorrow, tonight, on {weekday}, next {weekday}, this weekend, on {date}, {weekday} {part}"
    ),
    "part": _words("morning afternoon evening"),
    "date": ["{month} {ordinal}", "the {ordinal} of {month}"],
    "hour": [spell(number) for number in range(1, 13)],
    "time": [
        "{hour} oclock",
        "{hour} {half}",
        "{hour} thirty",
        "half past {hour}",
        "quarter {past} {hour}",
        "{minutes} {past} {hour}",
        "{hour} in the {part}",
        "noon",
        "midnight",
    ],
    "half": _phrases("fifteen, thirty, forty five, twenty, ten, fifty"),
    "minutes": _phrases("five, ten, twenty, twenty five"),
    "past": _words("past to"),
    "digit": [spell(number) for number in range(10)],
    "small": [spell(number) for number in range(2, 13)],
    "number": [spell(number) for number in range(10, 100)],
    "hundreds": [spell(number) for number in range(100, 1000)],
}

_REFERENCE = re.compile(r"\{(\w+)\}")


def sentence(rng: np.random.Generator, rule: str = "command") -> str:
    """A random sentence of the grammar."""
    phrases = RULES[rule]
    return _REFERENCE.sub(lambda match: sentence(rng, match[1]), phrases[rng.integers(len(phrases))])


def vocabulary() -> list[str]:
    """Every word that the grammar can say, sorted."""
    return sorted(
        {word for phrases in RULES.values() for phrase in phrases for word in _REFERENCE.sub("", phrase).split()}
    )


def part_of(text: str) -> int:
    """The part of a hundred, 0 to 99, that a sentence belongs to, by its checksum; sets of other parts share none."""
    return zlib.crc32(text.encode()) % 100


def unused_sentence(
    rng: np.random.Generator, parts: range, used: Collection[str] = (), rules: Sequence[str] = ("command",)
) -> str:
    """A random sentence of one of ``rules`` that belongs to ``parts`` of a hundred and is not in ``used``.

    Raises:
        SigmelError: hardly any such sentence is left.
    """
    for _ in range(20000):
        text = sentence(rng, rules[int(rng.integers(len(rules)))] if len(rules) > 1 else rules[0])
        if part_of(text) in parts and text not in used:
            return text
    raise SigmelError(
        f"the grammar has few sentences left of {', '.join(rules)}, {len(used)} being used; ask for fewer"
    )


def speakers(set_name: str) -> list[str]:
    """The variants of eSpeak NG that speak in "train" (most), "dev" (6) or "test" (13)."""
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for number, variant in enumerate(variants()):
        parts["test" if number % 8 == 3 else "dev" if number % 16 == 7 else "train"].append(variant)
    return parts[set_name]


class Said(NamedTuple):
    """A sentence spoken by a voice: float32 samples, shape (samples,), and which phone is spoken when."""

    voice: str
    samples: np.ndarray
    phones: list[Phone]


def speak(
    text: str,
    accents: Sequence[str],
    speakers: Sequence[str],
    rng: np.random.Generator,
    sample_rate: int,
    speeds: tuple[int, int] = (130, 220),
) -> Said:
    """Have a random voice say a text, at a random speed (words a minute) and pitch.

    The samples are at ``sample_rate`` Hz.
    """
    voice = f"{accents[int(rng.integers(len(accents)))]}+{speakers[int(rng.integers(len(speakers)))]}"
    speed = int(rng.integers(speeds[0], speeds[1] + 1))
    pitch, pitch_range = int(rng.integers(15, 86)), int(rng.integers(20, 81))
    with EspeakVoice(voice, speed=speed, pitch=pitch, pitch_range=pitch_range) as speaker:
        spoken = speaker.speak(text)
    return Said(voice, resample(spoken.samples, ESPEAK_RATE, sample_rate), spoken.phones)
