"""Banking, currencies, bills, stocks."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "money")
_CURRENCIES = ("dollars", "euros", "yen", "pounds", "francs", "pesos")

APIS = (
    _api(
        "convert exchange change",
        "currency money cash",
        about="converts an amount to another currency / exchanges money",
        asks="convert money / exchange cash // swap currency",
        takes=(
            need("amount sum value", k.decimal(5, 900), "how much", "amounting to {} / of {}"),
            need("source from_currency", k.one_of(*_CURRENCIES), "currency it is in", "from {}"),
            need(
                "target to_currency", k.one_of(*_CURRENCIES), "currency wanted", "to {} / into {}"
            ),
        ),
        gives=(
            result("converted outcome", k.decimal(5, 900)),
            result("rate course", k.decimal(1, 9)),
        ),
    ),
    _api(
        "send transfer pay",
        "money funds payment",
        about="sends money to a person / transfers funds to somebody",
        asks="transfer money / send a payment // wire funds",
        takes=(
            need("recipient receiver payee", k.PERSON, "who gets the money", "to {}"),
            need("amount sum", k.whole(5, 900), "how much", "amounting to {} / of {}"),
            may("instant fast", k.yes_no("at once", "overnight"), "without delay"),
            may("purpose subject", k.one_of("rent", "gift", "debt", "salary"), "what for", "as {}"),
        ),
        gives=(result("transfer payment_code", k.CODE), result("fee cost", k.decimal(1, 9))),
    ),
    _api(
        "get check show",
        "balance account_state savings",
        about="how much money is on an account / balance of a bank account",
        asks="check the balance / see how much is on the account // look at the savings",
        takes=(
            need("account account_code number", k.CODE, "code of the account", "of {} / for {}"),
            may("date on_date", k.DATE, "balance of this day", "on {}"),
        ),
        gives=(result("balance total", k.decimal(10, 990)),),
    ),
    _api(
        "get look_up quote",
        "stock_price share_value quotation",
        about="price of a share / what a company's stock costs",
        asks="get the stock price / look up the share value // see what a share costs",
        takes=(
            need("company firm", k.COMPANY, "which company", "of {} / for {}"),
            may(
                "market exchange", k.one_of("tokyo", "london", "zurich"), "stock exchange", "in {}"
            ),
            may("currency unit", k.one_of(*_CURRENCIES), "currency of the answer", "in {}"),
        ),
        gives=(result("price value", k.decimal(5, 900)), result("change trend", k.decimal(1, 9))),
    ),
    _api(
        "compute get plan",
        "loan mortgage credit",
        about="monthly payment of a loan / plans a credit",
        asks="compute a loan / plan a credit // figure out a mortgage",
        takes=(
            need("amount sum", k.whole(100, 900), "amount in thousands", "over {} thousand"),
            need("years duration", k.whole(2, 30), "years to pay back", "paid back in {} years"),
            need("interest rate", k.decimal(1, 9), "interest in percent", "at {} percent"),
        ),
        gives=(result("monthly payment", k.decimal(100, 990)),),
        is_held=True,
    ),
    _api(
        "create write issue",
        "invoice bill account",
        about="writes an invoice to a customer / bills somebody for items",
        asks="write an invoice / create a bill // charge a customer",
        takes=(
            need(
                "customer client",
                k.record("customer", "{} in {}", name_or_full_name=k.PERSON, city_or_town=k.CITY),
                "who has to pay",
                "for {}",
            ),
            need("total amount", k.decimal(5, 900), "how much", "of {} euros"),
            may(
                "items lines",
                k.many(k.one_of("advice", "repair", "design", "travel")),
                "for what",
                "covering {}",
            ),
            may("due pay_until", k.DATE, "last day to pay", "due on {}"),
        ),
        gives=(result("invoice bill_code", k.CODE), result("street sent_to", k.STREET)),
    ),
)
