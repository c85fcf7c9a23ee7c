"""Spoken commands to a home assistant: a small grammar of commands, and voices of eSpeak NG to say them.

Numbers, times, dates, names, devices, rooms, media, ... Everything is spelt out in lower-case words: no digits, no
punctuation.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from sigmel.errors import SigmelError
from sigmel.recipes.corpora.espeak import EspeakVoice, Spoken, variants

# A rule is a list of phrases to choose from; `{rule}` stands for a phrase of another rule. Large numbers follow below.
GRAMMAR = """
# what is said; a kind of command is drawn as often as it stands here
command = {light} | {light} | {device} | {device} | {climate} | {climate} | {media} | {media} | {volume} | {timer}
    | {timer} | {alarm} | {alarm} | {calendar} | {calendar} | {call} | {call} | {message} | {weather} | {weather}
    | {sum} | {shopping} | {shopping} | {travel} | {travel} | {cooking} | {question} | {question} | {security}
    | {cleaning}
light = turn {on} the {lamp} in the {room} | switch {on} the {room} {lamp} | turn {on} all the {lamps}
    | {please} dim the {room} {lamps} to {number} percent | make the {room} {lamp} {colour}
    | set the {lamp} in the {room} to {colour} | change the {room} {lamps} to {shade} {colour}
    | is the {room} {lamp} still on
device = turn {on} the {appliance} | {please} switch {on} the {appliance} in the {room}
    | {open} the {opening} in the {room} | {open} the {room} {opening} | start the {appliance} {when}
    | stop the {appliance} in {small} minutes | did anyone leave the {appliance} running
    | unplug the {appliance} when it is finished
climate = set the temperature to {number} degrees | set the {room} to {number} degrees
    | make it {small} degrees {warmer} | make the {room} a little {warmer} | turn {up} the heating in the {room}
    | what is the temperature in the {room} | how {humid} is the {room} right now
media = play {some} {genre} music | play {some} {genre} in the {room} | play the {latest} {programme}
    | {pause} the {programme} | skip to the next {item} | go back to the previous {item}
    | play {genre} music by {person} | add this {item} to my {mood} list | {please} play something {mood}
    | repeat the last {item} {small} times | show me the {latest} {programme} on the television
volume = turn the volume {up} | set the volume to {number} | turn {up} the volume by {small}
    | mute the {speaker} in the {room} | make the {speaker} {louder}
timer = set a timer for {number} minutes | set a {food} timer for {number} minutes
    | set a timer for {small} hours and {number} minutes | start a {number} second timer
    | how much time is left on the {food} timer | add {number} minutes to the {food} timer | cancel the {food} timer
    | count down from {number}
alarm = wake me up at {time} | {please} wake me at {time} {day} | set an alarm for {time}
    | set an alarm for {time} every {weekday} | cancel my alarm for {weekday} | snooze for {small} minutes
    | move the alarm from {hour} to {time}
calendar = remind me to {task} at {time} | remind me to {task} {day} | book a {meeting} with {person} {day}
    | schedule a {meeting} for {date} | what is on my calendar for {date}
    | move the {meeting} with {person} to {weekday} | cancel the {meeting} on {date}
    | when is the next {meeting} with {person} | when is the birthday of {person} | how many days until {date}
call = call {person} | {please} call {person} on the mobile | call {person} at {place}
    | dial {digit} {digit} {digit} {digit} {digit} {digit} | call {digit} {digit} {digit} {digit} {digit}
    | the number is {digit} {digit} {digit} {digit} | hang up and call {person} again
    | answer the phone and tell {person} to wait
message = send a message to {person} | text {person} that i am {late} | tell {person} dinner is ready
    | read my {latest} messages from {person} | reply to {person} that we will be {late}
    | email {person} about the {meeting}
weather = what is the weather in {city} | what is the weather like {day} in {city} | will it {rain} {day}
    | will it {rain} in {city} {day} | do i need {clothing} {day} | how {cold} will it be in {city}
    | when does the sun {rise} in {city} | is it going to be {cold} on {weekday}
sum = what is {number} plus {number} | what is {number} minus {number} | how much is {number} times {small}
    | divide {hundreds} by {small} | how many {units} are in {number} {larger_units}
    | convert {number} {units} to {larger_units}
shopping = add {food} to the shopping list | add {small} {container} of {food} to the list
    | put {food} and {food} on the list | take {food} off the shopping list | order {small} {container} of {food}
    | do we still have any {food} | how much does the {food} cost
travel = how do i get to {city} | how long is the drive to {place} | find the nearest {place}
    | when does the next {vehicle} leave for {city} | book a {vehicle} to {city} {day}
    | book a {vehicle} to {city} for {small} people | is there much traffic on the way to {place}
    | take me to the {place} near {city}
cooking = how long should i boil {food} | find a recipe with {food} and {food}
    | preheat the oven to {hundreds} degrees | what can i cook with {food} | read me the {ordinal} step of the recipe
question = what time is it in {city} | what day is {date} | who is {person} | how far is {city} from {city}
    | tell me a {mood} story about a {animal} | tell me a joke about a {animal} | what sound does a {animal} make
    | how do you say {animal} in {language} | translate {task} into {language} | what did the {team} score {day}
security = {open} the {door} door | did i lock the {door} door | who is at the {door} door
    | show me the {door} camera | {arm} the burglar alarm {when} | turn {on} the camera in the {room}
cleaning = vacuum the {room} {when} | {please} clean the {room} {day} | send the robot to the {room}
    | water the {plants} in the {room} | empty the {appliance} {when}

# what commands speak of
on = on | on | off
up = up | down
open = open | close | lock | unlock
arm = arm | disarm | test
pause = pause | resume | stop | restart | record
please = please | please | could you | would you | can you | i want you to
some = some | more | my
warmer = warmer | cooler | brighter | darker | quieter
louder = louder | softer | clearer
humid = warm | cold | humid | dusty | bright
cold = cold | hot | windy | wet | cloudy | dry | foggy | icy
rain = rain | snow | freeze | thunder | hail
rise = rise | set
late = late | on my way | almost there | stuck in traffic | at the station | home soon | {number} minutes late
lamp = light | light | lamp | lantern | spotlight
lamps = lights | lights | lamps | lanterns | spotlights
colour = red | blue | green | yellow | orange | purple | white | pink | violet | turquoise | golden
shade = pale | dark | soft | bright | deep
room = kitchen | bathroom | bedroom | living room | dining room | hallway | office | garage | basement | attic
    | nursery | garden | balcony | laundry | library | guest room | cellar | porch | workshop | study
appliance = fan | oven | dishwasher | washing machine | dryer | coffee machine | kettle | toaster | heater
    | television | radio | air conditioner | printer | computer | projector | sprinkler | fountain | freezer
    | blender | humidifier | vacuum | router
opening = window | blinds | curtains | shutters | skylight | door
speaker = speaker | speakers | television | radio | headphones
genre = jazz | classical | rock | country | pop | folk | blues | dance | opera | reggae | piano | guitar | christmas
    | electronic
programme = news | podcast | episode | movie | documentary | concert | cartoon | football | game | audiobook | series
item = song | track | chapter | episode | station | video | album
mood = happy | relaxing | quiet | funny | sad | exciting | romantic | scary | cheerful
latest = latest | newest | first | last | favourite
person = anna | robert | maria | james | linda | thomas | susan | peter | laura | daniel | emma | oliver | sophia
    | henry | alice | george | victoria | martin | julia | samuel | helen | patrick | diana | walter | rebecca
    | vincent | charlotte | benjamin | margaret | nicholas | grandma | doctor | mother | father | uncle
city = london | paris | berlin | madrid | rome | vienna | tokyo | boston | chicago | denver | dublin | lisbon
    | athens | toronto | sydney | moscow | cairo | oslo | helsinki | amsterdam | new york | san francisco | barcelona
    | edinburgh | singapore | montreal | budapest | istanbul
place = airport | hospital | school | supermarket | pharmacy | bakery | restaurant | cinema | museum | hotel | bank
    | station | park | gym | beach | stadium | university | market | church | work | home
vehicle = train | bus | flight | taxi | ferry | tram
food = milk | bread | butter | eggs | cheese | apples | bananas | tomatoes | potatoes | onions | rice | pasta
    | chicken | salmon | coffee | tea | sugar | salt | pepper | yogurt | carrots | spinach | mushrooms | lemons
    | oranges | honey | chocolate | cereal | garlic | cucumbers | soup
container = bottles | boxes | bags | packets | cans | kilos
clothing = an umbrella | a jacket | gloves | sunglasses | a scarf | boots | a coat | sunscreen
task = feed the cat | walk the dog | water the plants | take out the trash | buy flowers | pay the rent
    | call the dentist | pick up the children | charge the phone | iron the shirts | bake a cake | clean the windows
    | wash the car | take my medicine | renew the passport | fix the bicycle | check the mailbox | return the books
meeting = meeting | lunch | dinner | breakfast | appointment | interview | video call | lesson | party | haircut
    | workshop | tennis match
animal = dog | cat | horse | lion | elephant | penguin | monkey | rabbit | tiger | dolphin | parrot | donkey | zebra
    | frog
plants = plants | flowers | trees | roses | tomatoes | ferns
language = german | french | spanish | italian | russian | japanese | greek | dutch | swedish | turkish
team = home team | national team | tigers | eagles | giants | visitors
door = front | back | garage | side | garden | cellar
units = minutes | grams | inches | meters | cents | days
larger_units = hours | pounds | miles | kilometers | dollars | months
when = now | later | tonight | at {time} | at {time} | in {small} minutes | after dinner | before breakfast

# dates, times and small numbers
weekday = monday | tuesday | wednesday | thursday | friday | saturday | sunday
month = january | february | march | april | may | june | july | august | september | october | november | december
day = today | tomorrow | tonight | on {weekday} | next {weekday} | this weekend | on {date} | {weekday} {part}
part = morning | afternoon | evening
date = {month} {ordinal} | the {ordinal} of {month}
time = {hour} oclock | {hour} {half} | {hour} thirty | half past {hour} | quarter {past} {hour}
    | {minutes} {past} {hour} | {hour} in the {part} | noon | midnight
half = fifteen | thirty | forty five | twenty | ten | fifty
minutes = five | ten | twenty | twenty five
past = past | to
ordinal = first | second | third | fourth | fifth | sixth | seventh | eighth | ninth | tenth | eleventh | twelfth
    | thirteenth | fourteenth | fifteenth | sixteenth | seventeenth | eighteenth | nineteenth | twentieth
    | twenty first | twenty second | twenty third | twenty fourth | twenty fifth | twenty sixth | twenty seventh
    | twenty eighth | twenty ninth | thirtieth | thirty first
hour = one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
digit = zero | one | two | three | four | five | six | seven | eight | nine
small = two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
"""

_ONES, _TENS = map(
    str.split,
    (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
        "twenty thirty forty fifty sixty seventy eighty ninety",
    ),
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


RULES: dict[str, list[str]] = {
    rule: [" ".join(phrase.split()) for phrase in phrases.split("|")]
    for rule, phrases in re.findall(r"^(\w+) = (.*(?:\n +.*)*)", GRAMMAR, re.MULTILINE)
} | {
    "number": [spell(number) for number in range(10, 100)],
    "hundreds": [spell(number) for number in range(100, 1000)],
}

_REFERENCE = re.compile(r"\{(\w+)\}")


def sentence(rng: np.random.Generator, rule: str = "command") -> str:
    """A random sentence of the grammar."""
    phrases = RULES[rule]
    return _REFERENCE.sub(lambda match: sentence(rng, match[1]), phrases[rng.integers(len(phrases))])


def part_of(text: str) -> int:
    """The part of a hundred, 0 to 99, that a sentence belongs to by its checksum."""
    return zlib.crc32(text.encode()) % 100


def sentences(
    set_name: str, count: int, rng: np.random.Generator, used: set[str], rules: Sequence[str] = ("command",)
) -> Iterator[str]:
    """Random sentences for a set; no sentence of dev and the tests occurs twice, or in another set.

    Args:
        set_name: "train", "dev" or any other name, which is that of a test.
        count: number of sentences.
        rng: of the choices.
        used: sentences of dev and the tests so far, to which the sentences are added.
        rules: the rules to choose from for each sentence.

    Raises:
        SigmelError: hardly any such sentence is left.
    """
    parts = {"train": range(80), "dev": range(80, 85)}.get(set_name, range(85, 100))
    for _ in range(count):
        for _ in range(20000):
            text = sentence(rng, rules[int(rng.integers(len(rules)))] if len(rules) > 1 else rules[0])
            if part_of(text) in parts and text not in used:
                break
        else:
            left = f"few sentences left of {', '.join(rules)}, {len(used)} being used"
            raise SigmelError(f"the grammar has {left}; ask for fewer")
        if set_name != "train":
            used.add(text)
        yield text


def speakers(set_name: str) -> list[str]:
    """The variants of eSpeak NG that speak in "train" (most), "dev" (6) or, by any other name, a test (13)."""
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for number, variant in enumerate(variants()):
        parts["test" if number % 8 == 3 else "dev" if number % 16 == 7 else "train"].append(variant)
    return parts.get(set_name, parts["test"])


def speak(
    text: str,
    accents: Sequence[str],
    speakers: Sequence[str],
    rng: np.random.Generator,
    sample_rate: int,
    speeds: tuple[int, int] = (130, 220),
) -> tuple[str, Spoken]:
    """The name of a random voice, and a text that it says at a random speed (words a minute) and pitch."""
    voice = f"{accents[int(rng.integers(len(accents)))]}+{speakers[int(rng.integers(len(speakers)))]}"
    speed = int(rng.integers(speeds[0], speeds[1] + 1))
    pitch, pitch_range = int(rng.integers(15, 86)), int(rng.integers(20, 81))
    with EspeakVoice(voice, speed, pitch, pitch_range, sample_rate=sample_rate) as speaker:
        return voice, speaker.speak(text)


def crowd(
    accents: Sequence[str], speakers: Sequence[str], rng: np.random.Generator, sample_rate: int
) -> list[np.ndarray]:
    """What four random voices say, for `augment.babble`."""
    return [speak(sentence(rng), accents, speakers, rng, sample_rate)[1].samples for _ in range(4)]
