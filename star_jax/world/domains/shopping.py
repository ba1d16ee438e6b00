"""Shops, orders, parcels."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "shopping")

APIS = (
    _api(
        "search find browse",
        "products goods items",
        about="searches a shop for products / finds goods to buy",
        asks="search the shop / look for offers // browse the goods",
        takes=(
            need("query product item", k.PRODUCT, "what to look for", "for {} // after {}"),
            may("max_price budget", k.decimal(10, 400), "highest price", "below {} euros"),
            may(
                "color shade", k.one_of("red", "black", "white", "green", "blue"), "color", "in {}"
            ),
            may("used second_hand", k.yes_no("used", "unused"), "used goods", "that are {}"),
        ),
        gives=(result("cheapest best_price", k.decimal(5, 300)), result("seller shop", k.COMPANY)),
    ),
    _api(
        "buy order purchase",
        "product item article",
        about="buys a product / places an order in the shop",
        asks="buy the article / place an order // get me the goods",
        takes=(
            need("product article item", k.PRODUCT, "what to buy", "for {} / of {}"),
            need("quantity amount pieces", k.whole(2, 12), "how many", "in a quantity of {}"),
            may("express fast", k.yes_no("by express", "by normal mail"), "deliver fast"),
        ),
        gives=(result("order order_code", k.CODE), result("total price", k.decimal(10, 800))),
    ),
    _api(
        "track follow trace",
        "parcel package shipment",
        about="tells where a parcel is / follows a shipment by its code",
        asks="track the parcel / trace the package // see where the shipment is",
        takes=(
            need("code tracking_code parcel", k.CODE, "code of the parcel", "with code {}"),
            may("carrier company", k.COMPANY, "who delivers", "sent by {}"),
        ),
        gives=(result("city place", k.CITY), result("arrives due", k.DATE)),
    ),
    _api(
        "return send_back refund",
        "order purchase goods",
        about="returns an order for money / sends goods back",
        asks="return the order / send back the purchase // give the goods back",
        takes=(
            need("order order_code code", k.CODE, "code of the order", "with code {}"),
            need(
                "reason cause",
                k.one_of("broken", "too small", "too late", "wrong item"),
                "why it goes back",
                "since it is {} / for being {}",
            ),
        ),
        gives=(result("refund money_back", k.decimal(5, 500)),),
    ),
    _api(
        "change update set",
        "delivery_address shipping_address destination",
        about="changes where an order is sent / new address for a delivery",
        asks="change the delivery address / update the address // redirect the delivery",
        takes=(
            need("order code", k.CODE, "code of the order", "of the order with code {}"),
            need(
                "address new_address",
                k.record(
                    "address",
                    "{} {} in {}",
                    number=k.whole(1, 99),
                    street_or_road=k.STREET,
                    city=k.CITY,
                ),
                "the new address",
                "to {}",
            ),
        ),
        gives=(result("delay days", k.whole(2, 9)),),
        is_held=True,
    ),
    _api(
        "send give issue",
        "gift_card voucher coupon",
        about="sends somebody a gift card / gives a voucher of some value",
        asks="send a gift card / give a voucher // treat somebody to a coupon",
        takes=(
            need("email address mail", k.EMAIL, "mail address of the receiver", "to {}"),
            need("value amount", k.decimal(5, 99), "value of the card", "worth {}"),
            may("from_name sender", k.PERSON, "who gives it", "from {}"),
            may("shops stores", k.many(k.COMPANY), "where it counts", "valid at {}"),
        ),
        gives=(result("card voucher_code", k.CODE),),
    ),
)
