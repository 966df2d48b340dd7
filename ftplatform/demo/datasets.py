"""The demo's uploads: help-desk tickets with the queue that each belongs to, as OpenAI chat JSONL.

A ticket is an opening, a complaint and a closing, each drawn from many phrasings with slots, so the tickets of a test
split were never seen whole, though their phrasings were: a score on them is about new combinations, not new wording; one in ten also mentions another queue's matter as already settled, so a single keyword
does not decide. As in real tickets, some carry e-mail addresses, phone and card numbers (invented, but well-formed: the
cards pass the Luhn check) for the scrub to find, and a few were sent twice.
"""

import json
from pathlib import Path
from random import Random

UPLOAD = "tickets.jsonl"
PII_SHARE = 0.08
SETTLED_SHARE = 0.1
DUPLICATES = 8
BAD_SHARE = 0.02

# label -> complaints. `[a/b]` is a choice; `{...}` a slot of _slots.
_COMPLAINTS: dict[str, tuple[str, ...]] = {
    "billing refund": (
        "I [want/would like/expect] my money back for the {item}.",
        "please [refund/pay back/reimburse] the {money} for my {item}.",
        "[when/how] will I get the refund for {order}?",
        "I sent the {item} back {days} ago, but [the money/my refund] has not arrived.",
        "the {item} was not [what I wanted/as described/good], so please return my {money}.",
        "you promised to [refund/reimburse] {order} and I still wait for the money.",
    ),
    "billing invoice": (
        "I [need/want/am missing] the invoice for {order}.",
        "please [send/mail] me [a copy of the bill/an invoice/the tax receipt] for the {item}.",
        "the [invoice/bill] for the {item} shows the wrong [amount/company/tax].",
        "where can I [download/find/print] [my invoice/the bill] for {order}?",
        "our accountant asks for [a receipt/an invoice/the bill] over {money}.",
        "there is [no company name/a mistake] on [my bill/the invoice] for {order}.",
    ),
    "payment failed": (
        "my [card/bank transfer/payment] was [declined/rejected] when I tried to buy the {item}.",
        "I cannot pay for the {item}, the [card is refused/payment does not go through].",
        "the payment page [hangs/shows a decline/stops] after I enter my card.",
        "[paying/checkout] for {order} fails every time although my card is [fine/valid].",
        "your shop [does not accept/rejects] my card for {money}.",
        "I tried to pay {money} {times}, and the transaction [was declined/did not work].",
    ),
    "order delivery": (
        "[where is/when will I get] my {item}?",
        "the parcel with my {item} has not [arrived/come/reached me].",
        "I [ordered/bought] the {item} {days} ago and [nothing came/it is not here yet].",
        "the courier [did not ring/never came/lost the parcel] with {order}.",
        "the tracking of {order} has not [moved/changed] for {days}.",
        "delivery of {order} is {days} late, [where is the parcel/when does it come]?",
    ),
    "order cancel": (
        "please [cancel/stop] {order}.",
        "I [no longer need/do not want/changed my mind about] the {item}, cancel it.",
        "[can I still/how do I/I need to] cancel {order}?",
        "I [ordered/bought] the {item} by mistake, please [call the order off/cancel the purchase].",
        "do not [ship/send] the {item}, I [withdraw/cancel] my order.",
        "I found the {item} cheaper, so please [cancel/call off] {order}.",
    ),
    "shipping address": (
        "I [moved/have a new flat], please [change/update] the address for {order}.",
        "{order} is going to [my old/the wrong] [address/street].",
        "please send the {item} to [my office/another address/my new house].",
        "I [typed/entered] the wrong [street/postcode/house number] for {order}.",
        "can you ship the {item} to [a different/my work] address?",
        "the [street/city/postcode] on {order} is wrong, please [correct/change] it.",
    ),
    "account password": (
        "I [forgot/lost] my password.",
        "the password reset [mail never comes/link has expired/does not work].",
        "I cannot [log in/sign in], it says [wrong password/invalid login].",
        "how do I [reset/change] my password?",
        "my login is [locked/blocked] after {times} with a wrong password.",
        "please [unlock my login/send me a new password/reset my password].",
    ),
    "account close": (
        "please [delete/close/remove] my account.",
        "I [want to/would like to] leave, [erase/delete] all my data.",
        "how can I [close/deactivate] my [account/profile]?",
        "I do not [use/need] my account any more, [close/remove] it.",
        "[remove/erase] my profile and my personal data from your shop.",
        "I asked {days} ago to have my account [deleted/closed], and it is still there.",
    ),
    "technical error": (
        "the {item} [does not turn on/is broken/stopped working].",
        "my {item} [crashes/freezes/restarts] [every hour/all the time/after the update].",
        "the screen of the {item} [stays black/flickers].",
        "the app shows an error and [closes/crashes] when I open the {item} page.",
        "since the update the {item} is [very slow/not found/dead].",
        "the {item} [makes a strange noise/gets too hot/does not charge].",
    ),
    "product question": (
        "does the {item} [work with/fit] [a mac/an older model/linux]?",
        "how [heavy/large/long] is the {item}?",
        "which {item} do you [recommend/suggest] for [a student/my office/travel]?",
        "is the {item} [available/in stock] in [black/white/blue]?",
        "what is the difference between the two [versions/sizes] of the {item}?",
        "how long is the [warranty/guarantee] of the {item}?",
    ),
}
LABELS = tuple(_COMPLAINTS)
_SETTLED = (
    "The invoice is fine now, but", "Thanks, my password works again.", "The delivery was quick this time.",
    "The address is right now.", "The refund for the last one came, thank you.", "I paid without a problem,",
)  # fmt: skip
_OPENINGS = ("", "", "", "Hello,", "Hi,", "Good morning.", "Dear team,", "Hey there,", "Hi, it is {name}.", "Sorry to bother you,",
             "Quick question:", "To whom it may concern:")  # fmt: skip
_CLOSINGS = ("", "", "", "", "Thanks!", "Thank you, {name}", "Please hurry.", "Best regards, {name}", "I am waiting for an answer.",
             "This is the second time I write.", "Please help.", "Greetings, {name}")  # fmt: skip
_ITEMS = ("headset", "laptop", "keyboard", "monitor", "printer", "phone", "router", "charger", "camera", "tablet", "speaker",
          "mouse", "watch", "lamp")  # fmt: skip
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Henry", "Ines", "Jonas", "Kira", "Liam", "Mona", "Omar",
          "Priya", "Ravi")  # fmt: skip

EXAMPLE_QUESTIONS = (
    "Hi, I still wait for the money you promised for the tablet.",
    "Good morning. The courier never came with my camera. Best regards, Mona",
    "I forgot my password and the reset link has expired.",
    "Please do not send the speaker, I want to cancel.",
    "Our accountant asks for the bill for order 48213.",
)


def write_good_dataset(folder: Path, *, rows: int = 1100, seed: int = 7) -> Path:
    """Write `rows` valid tickets, of them DUPLICATES sent twice; returns the file."""
    return _write(folder, [_encode(row) for row in _good_rows(rows, seed)])


def write_poisoned_dataset(folder: Path, *, rows: int = 1100, seed: int = 7) -> tuple[Path, Path]:
    """The same tickets with BAD_SHARE of the lines spoilt, every kind of damage in turn, and a second file in Latin-1."""
    rng = Random(f"poisoned {seed}")
    lines = [_encode(row) for row in _good_rows(rows, seed)]
    spoilt = rng.sample(range(rows), max(len(_DAMAGES), round(rows * BAD_SHARE)))
    for turn, line in enumerate(spoilt):
        lines[line] = _DAMAGES[turn % len(_DAMAGES)](lines[line])
    tickets = _write(folder, lines)
    latin = folder / "tickets-latin1.jsonl"
    latin.write_bytes(_encode(_row("Où est ma commande? Le numéro est 48213.", LABELS[3])).encode("latin-1") + b"\n")
    return tickets, latin


def _write(folder: Path, lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / UPLOAD
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def _encode(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False)


def _row(question: str, label: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"Queue: {label}"}]}


def _good_rows(rows: int, seed: int) -> list[dict]:
    """Distinct tickets, labels in equal shares, then DUPLICATES repeats of earlier ones at random places."""
    rng = Random(f"tickets {seed}")
    tickets: dict[str, str] = {}
    while len(tickets) < rows - DUPLICATES:
        label = LABELS[len(tickets) % len(LABELS)]
        tickets.setdefault(_ticket(rng, label), label)
    made = [_row(question, label) for question, label in tickets.items()]
    made += rng.sample(made, DUPLICATES)
    rng.shuffle(made)
    return made


def _ticket(rng: Random, label: str) -> str:
    settled = rng.choice(_SETTLED) if rng.random() < SETTLED_SHARE else ""
    contact = _contact(rng) if rng.random() < PII_SHARE else ""
    parts = (rng.choice(_OPENINGS), settled, rng.choice(_COMPLAINTS[label]), contact, rng.choice(_CLOSINGS))
    text = " ".join(part for part in parts if part)
    return _capitalised(_filled(rng, text))


def _filled(rng: Random, text: str) -> str:
    head, *rest = text.split("[")
    for piece in rest:
        options, tail = piece.split("]", 1)
        head += rng.choice(options.split("/")) + tail
    number = rng.randrange(10000, 100000)
    return head.format(
        item=rng.choice(_ITEMS),
        name=rng.choice(_NAMES),
        order=rng.choice(
            (f"order {number}", f"my order {number}", f"order number {number}", "my order", "my last order")
        ),
        money=rng.choice((f"{rng.randrange(10, 400)} euros", f"{rng.randrange(10, 400)} dollars")),
        days=rng.choice(("two days", "three days", "a week", "two weeks", "ten days", "a month")),
        times=rng.choice(("twice", "three times", "five times", "many times")),
    )


def _capitalised(text: str) -> str:
    """Sentences start with a capital letter, as most people write."""
    for mark in (". ", "! ", "? "):
        text = mark.join(part[:1].upper() + part[1:] for part in text.split(mark))
    return text


def _contact(rng: Random) -> str:
    name = rng.choice(_NAMES).lower()
    return rng.choice((
        f"My e-mail is {name}.{rng.choice(_NAMES).lower()}{rng.randrange(10, 99)}@mailbox.org.",
        f"Call me on +49 30 {rng.randrange(1000000, 9999999)}.",
        f"My number is (212) 555-{rng.randrange(1000, 9999)}.",
        f"I paid with card {_card(rng)}.",
    ))  # fmt: skip


def _card(rng: Random) -> str:
    digits = [4] + [rng.randrange(10) for _ in range(14)]
    doubled = sum(sum(divmod(2 * d, 10)) if i % 2 == 0 else d for i, d in enumerate(digits))
    text = "".join(map(str, [*digits, -doubled % 10]))
    return " ".join(text[i : i + 4] for i in range(0, 16, 4))


def _without(key: str, line: str) -> str:
    return _encode({k: v for k, v in json.loads(line).items() if k != key})


def _renamed_role(line: str) -> str:
    row = json.loads(line)
    row["messages"][0]["role"] = "customer"
    return _encode(row)


def _emptied(line: str) -> str:
    row = json.loads(line)
    row["messages"][1]["content"] = ""
    return _encode(row)


def _unanswered(line: str) -> str:
    row = json.loads(line)
    return _encode({"messages": row["messages"][:1]})


_DAMAGES = (
    lambda line: line[:-2],  # broken JSON: the end of the line is cut off
    lambda line: _without("messages", line),
    _renamed_role,
    _emptied,
    _unanswered,
)
