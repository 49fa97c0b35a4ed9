"""What is asked of whom next, and who is given what, in states that are written as strings."""

from __future__ import annotations

import pytest

from p2pd.fetch.runs import FEW_AT_ONCE, LEAST_NAMED, LONG_AT_ONCE
from p2pd.fetch.sources import FORGIVEN, MOST_GETS, REST
from p2pd.fetch.transfer import STALL
from tests.unit.fetch.states import PIECE, Fetching, Serving

# What is asked of whom


def test_rare_pieces_first_and_of_the_owner_what_nobody_else_has() -> None:
    me = Fetching("""
        me     .....
        owner  #####
        p1     ##.#.
        p2     ##...
    """)
    assert me.grant("p1") == "get 3", "the one that p2 lacks"
    assert me.grant("owner", limit=PIECE) in ("get 2", "get 4")
    assert me.grant("owner", limit=PIECE) in ("get 2", "get 4")
    assert me.state() in ("..o1o",)
    assert me.grant("p2", limit=PIECE) in ("get 0", "get 1")
    assert me.grant("p1", limit=PIECE) in ("get 0", "get 1")


def test_what_several_have_is_asked_of_a_complete_holder_last() -> None:
    me = Fetching("""
        me     ......
        owner  ######
        p1     ####..
        p2     ###.#.
    """)
    asked = [me.grant("owner", limit=PIECE) for _ in range(3)]
    assert asked[0] == "get 5"
    assert set(asked[1:]) == {"get 3", "get 4"}


def test_complete_holders_stream_their_own_shares() -> None:
    me = Fetching("""
        me     ........
        o1     ########
        o2     ########
    """)
    for _ in range(2):
        me.grant("o1", limit=PIECE)
        me.grant("o2", limit=PIECE)
    assert me.state() == "11..22.."


def test_nothing_is_asked_of_who_lacks_it() -> None:
    me = Fetching("""
        me     ..##
        p1     ..##
        p2     #...
    """)
    assert me.grant("p1") == "decline"
    assert me.grant("p2") == "get 0"
    me.announces("p1", "1")
    assert me.told() == "p1 want 3"
    assert me.grant("p1") == "get 1"


def test_who_names_a_piece_has_it_though_its_announcement_is_still_to_come() -> None:
    me = Fetching("""
        me     ..#
        p1     #.#
    """)
    assert me.grant("p1", "1") == "get 1"
    me.goes("p1")
    assert me.state() == "..#"


def test_of_a_run_that_is_named_what_is_missing_is_taken() -> None:
    me = Fetching("""
        me     ##1..#
        owner  ######
        p1     ..#...
    """)
    assert me.grant("owner", "0-5") == "get 3-4"
    assert me.grant("owner", "0-2") == "decline"


def test_a_piece_that_was_declined_is_asked_for_when_who_was_to_send_it_leaves() -> None:
    me = Fetching("""
        me     #1.
        owner  ###
        p1     ##.
    """)
    assert me.grant("owner", "2") == "get 2"
    assert me.grant("owner", "1") == "decline"
    me.goes("p1")
    assert me.told() == "owner want 3", "it does not name by itself what was declined"
    assert me.grant("owner", "1") == "get 1"


@pytest.mark.fault(66)
def test_a_piece_that_was_declined_is_asked_for_when_who_was_to_send_it_drips() -> None:
    me = Fetching("""
        me     ##1
        owner  ###
        p1     ###
    """)
    assert me.grant("owner", "2") == "decline"
    for _ in range(11):
        me.sends("p1", 0.75, count=1)
        me.wait(0.25)
    assert "owner want 3" in me.told()
    assert me.grant("owner", "2") == "get 2"
    assert me.state() == "##*"
    me.sends("owner")
    assert me.state() == "###"
    assert me.told() == "p1 cancel 2"


def test_in_the_endgame_a_named_piece_need_not_be_the_slowest() -> None:
    me = Fetching("""
        me     12#
        p1     ###
        p2     ###
        owner  ###
    """)
    me.wait(3)
    for named in ("1", "0"):
        assert me.grant("owner", named) == f"get {named}"
    assert me.state() == "**#"


@pytest.mark.fault(20)
def test_who_names_everything_is_not_asked_for_everything() -> None:
    pieces = 100
    me = Fetching(f"me {'.' * pieces}\nowner {'#' * pieces}\np1 {'#' * pieces}")
    assert me.grant("owner", f"0-{pieces - 1}") == f"get 0-{LEAST_NAMED // PIECE - 1}"
    assert me.grant("p1") != "decline"


@pytest.mark.fault(66)
def test_who_takes_requests_and_refuses_them_keeps_nothing_from_the_others() -> None:
    me = Fetching("""
        me     ##.
        owner  ###
        p1     ###
    """)
    for _ in range(100):
        # Its grants are always a moment sooner than the owner's.
        if me.grant("p1") == "get 2":
            if me.grant("owner") == "get 2":
                break
            me.refuses("p1")
        elif me.grant("owner") == "get 2":
            break
        me.wait(0.25)
    assert "owner" in {name for name, _ in me.gets}
    assert me.now < 105


@pytest.mark.fault(66)
def test_several_who_refuse_one_after_the_other_keep_nothing_from_the_others() -> None:
    me = Fetching("""
        me     ##.
        owner  ###
        p1     ###
        p2     ###
        p3     ###
        p4     ###
        p5     ###
        p6     ###
        p7     ###
    """)
    got = []
    for number in range(1, 8):
        assert me.grant(f"p{number}") == "get 2"
        got.append(me.grant("owner"))
        if got[-1] == "get 2":
            break
        me.refuses(f"p{number}")
        me.now += 0.5
    assert got[0] == "decline", "the first one may well be about to send it"
    assert got[-1] == "get 2"


@pytest.mark.fault(66)
def test_who_fails_again_and_again_rests() -> None:
    me = Fetching("""
        me     ..#
        p1     ###
    """)
    for _ in range(FORGIVEN):
        assert me.grant("p1") != "decline"
        me.refuses("p1")
    assert me.told() == ""
    assert me.grant("p1") != "decline"
    me.refuses("p1")
    assert me.told() == "p1 want 0"
    assert me.grant("p1") == "decline"
    assert me.transfer.live == 0
    me.wait(REST)
    assert me.told() == "p1 want 3"
    assert me.grant("p1") != "decline"
    me.sends("p1")
    assert me.transfer.live == 1
    # One that serves has nothing to make good for.
    for _ in range(FORGIVEN):
        if me.grant("p1") != "decline":
            me.refuses("p1")
    assert me.transfer.live == 1


@pytest.mark.fault(66)
def test_who_leaves_with_its_requests_and_comes_back_keeps_nothing_from_the_others() -> None:
    me = Fetching("""
        me     ##.
        owner  ###
        p1     ###
    """)
    for _ in range(100):
        if me.grant("p1") == "get 2":
            if me.grant("owner") == "get 2":
                break
            me.goes("p1")
            me.transfer.add_source("p1", "p1", None, me.now)
        elif me.grant("owner") == "get 2":
            break
        me.wait(0.25)
    assert "owner" in {name for name, _ in me.gets}
    assert me.now < 105


@pytest.mark.fault(66)
def test_two_who_drip_keep_nothing_from_a_third() -> None:
    me = Fetching("""
        me     #.1
        p1     ###
        p2     ###
        owner  ###
    """)
    assert me.grant("owner", limit=PIECE) == "get 1"
    me.sends("owner")
    me.wait(3)
    assert me.grant("p2") == "get 2", "the second one for that piece"
    assert me.grant("owner", "2") == "decline", "they may well be about to send it"
    for _ in range(8):
        for name in ("p1", "p2"):
            me.sends(name, 0.5, count=1)
        me.wait(0.25)
    me.told()
    assert me.grant("owner", "2") == "get 2"
    assert me.told() in ("p1 cancel 2", "p2 cancel 2"), "one of them first: no more than two at once"
    me.sends("owner")
    assert me.state() == "###"


def test_room_for_another_request_is_told_at_once() -> None:
    me = Fetching(f"me {'.' * 20}\nowner {'#' * 20}")
    for _ in range(MOST_GETS):
        assert me.grant("owner", limit=PIECE) != "decline"
    assert me.grant("owner", limit=PIECE) == "decline"
    assert me.told() == ""
    me.sends("owner")
    assert me.told() == "owner want 3"


def test_what_the_loser_of_the_endgame_had_besides_is_asked_of_others_at_once() -> None:
    me = Fetching("""
        me     .....
        p1     #####
        p2     ...##
        p3     #####
    """)
    assert me.grant("p2", "4") == "get 4"
    me.sends("p2")
    assert me.grant("p1", "0-3") == "get 0-3"
    assert me.grant("p3") == "decline"
    for _ in range(3):
        me.sends("p1", count=PIECE // 15)
    assert me.grant("p2", "3") == "get 3", "much sooner than the four of p1"
    me.told()
    me.sends("p2")
    assert me.told() == "p1 cancel 0-3, p3 want 3"
    assert me.state() == "...##"


def test_one_that_hangs_while_it_is_paused_is_asked_after() -> None:
    me = Fetching("""
        me     1..
        p1     ###
    """)
    me.wait(STALL + 0.5)
    assert me.told() == "p1 cancel 0"
    me.transfer.pause()
    assert me.told() == "p1 want 0", "its want of before stands"
    assert me.grant("p1") == "decline"
    me.transfer.resume(me.now)
    assert me.told() == "p1 want 3"
    assert me.grant("p1") == "get 0-1"


def test_only_who_is_not_read_is_not_called_silent() -> None:
    me = Fetching("""
        me     12..
        p1     ####
        p2     ####
    """)
    for _ in range(24):
        me.transfer.unread("p1", me.now)
        me.wait(0.25)
    assert me.told().startswith("p2 cancel 1")
    assert me.state() == "1..."


def test_news_is_only_what_is_new() -> None:
    me = Fetching(
        """
        me     #...
        owner  ####
        """,
        spare=True,
    )
    me.transfer.add_source("p1", "p1", Fetching("me #...\np1 #...").transfer.held, me.now)
    me.told()
    for _ in range(8):
        me.announces("p1", "0")
        me.wait(1)
    assert "owner want 3" in me.told().split(", "), "nobody passes anything on: no longer each piece once"


# Who is given what


def test_a_complete_holder_gives_everybody_another_piece() -> None:
    owner = Serving("""
        owner  ######
        p1     ......
        p2     ......
        p3     ......
    """)
    assert owner.grants() == "p1 0, p2 1, p3 2"


def test_what_was_announced_is_given_last() -> None:
    owner = Serving("""
        owner  ######
        p1     ##....
        p2     ###...
        p3     .....#
    """)
    assert owner.grants() == "p1 3, p2 4, p3 2"


def test_a_partial_holder_leaves_the_choice_to_the_others() -> None:
    p9 = Serving("""
        p9     #..#..
        p1     #..#..
        p2     #.....
        p3     ......
    """)
    assert p9.grants() == "p2 any, p3 any", "p1 has all of that"


def test_what_was_declined_is_given_again_to_who_wants_anew() -> None:
    owner = Serving("""
        owner  #
        p1     .
        p2     .
    """)
    owner.declines("p1")
    assert owner.grants() == "p2 0"
    owner.want("p1", 1)
    assert owner.grants() == "p1 0, p2 0"


def test_what_was_sent_and_did_not_arrive_is_given_again_to_who_wants_anew() -> None:
    owner = Serving("""
        owner  ##
        p1     ..
        p2     ..
    """)
    owner.uses("p1")
    owner.sent("p1")
    assert owner.grants() == "p1 1, p2 1"
    owner.declines("p1")
    assert owner.grants() == "p2 1"
    owner.want("p1", 2)
    assert owner.grants() == "p1 0, p1 1, p2 1"


def test_each_is_served_from_the_place_that_he_says() -> None:
    owner = Serving("""
        owner  ########
        p1     ........
        p2     ........
    """)
    assert owner.grants() == "p1 0, p2 1"
    owner.want("p1", 2, place=4)
    assert owner.grants() == "p1 0, p1 4, p2 1"
    owner.want("p2", 2)
    assert owner.grants() == "p1 0, p1 4, p2 1, p2 2"


@pytest.mark.fault(11)
def test_those_who_do_not_read_hold_up_nobody_else() -> None:
    owner = Serving("owner ############\nh1 ............\nh2 ............", wants=2)
    for name in ("h1", "h1", "h2", "h2"):
        owner.uses(name)
    assert owner.goes_out().count("h") == 4, "as many as are sent at once"
    owner.want("p1", 1)
    assert owner.grants() == ""
    owner.wait(1.5)
    for _ in range(8):
        owner.uses("p1")
        assert "p1" in owner.goes_out(), "nothing of theirs went out"
        owner.sent("p1")
    assert owner.goes_out().count("h") == 4


@pytest.mark.fault(20)
def test_those_who_take_grants_and_decline_them_hold_up_nobody_else() -> None:
    owner = Serving("""
        owner  ############
        h1     ............
        h2     ............
        h3     ############
        h4     ############
    """, wants=2)  # fmt: skip
    assert owner.grants().count("h") == 4
    owner.want("p1", 2)
    for _ in range(10):
        owner.wait(0.5)
        for name in ("h1", "h1", "h2", "h2"):
            owner.declines(name)
            owner.want(name, 2)
    assert "p1" in owner.grants()


@pytest.mark.fault(20)
def test_grants_that_nobody_uses_hold_up_nobody_else() -> None:
    owner = Serving("owner ############\nh1 ............\nh2 ............", wants=2)
    owner.want("p1", 2)
    assert "p1" not in owner.grants()
    owner.wait(1.5)
    assert "p1" in owner.grants()


def test_nothing_is_remembered_of_a_file_that_nobody_wants() -> None:
    owner = Serving("owner ##\np1 ..\np2 ..")
    for name in ("p1", "p2"):
        owner.granting.unwanted(name, "f", owner.now)
    owner.want("p3", 0)
    owner.granting.unwanted("p3", "f", owner.now)
    with pytest.raises(KeyError):
        owner.granting.want("p3", "f", 1, owner.now)


def of_four() -> Fetching:
    """Everything is missing, and four have some of it."""
    return Fetching("""
        me     ........
        p1     ########
        p2     ####....
        p3     ....####
        p4     ##.##.##
    """)


def test_with_enough_on_its_way_what_need_not_be_granted_is_put_off_until_something_came() -> None:
    me = of_four()
    names = ["p1", "p2", "p3", "p4"]
    for name in names[:LONG_AT_ONCE]:
        assert me.grant(name, needed=False).startswith("get")
    assert me.told() == ""
    assert me.grant("p4", needed=False) == "later"
    assert me.grant("p4").startswith("get"), "nobody else would get that"
    me.sends("p4")
    assert me.told() == "", "there is still enough on its way"
    me.sends("p1")
    assert me.told() == "p4 want 3"
    assert me.grant("p4", needed=False).startswith("get")


def test_where_few_pieces_have_to_come_to_many_less_is_enough() -> None:
    me = of_four()
    me.transfer.among(1000)
    for name in ["p1", "p2", "p3"][:FEW_AT_ONCE]:
        assert me.grant(name, needed=False).startswith("get")
    assert me.grant("p3", needed=False) == "later"
    me.transfer.among(1)
    assert me.grant("p4", needed=False).startswith("get")
    assert me.grant("p3", needed=False) == "later"


def long_wait() -> Fetching:
    """Enough is on its way from three, and the fourth was put off."""
    me = Fetching("""
        me     ........
        p1     #######.
        p2     ####....
        p3     ....####
        p4     ##.##.##
    """)
    for name in ["p1", "p2", "p3"]:
        me.grant(name)
    assert me.grant("p4", needed=False) == "later"
    me.told()
    return me


@pytest.mark.fault(66)
def test_who_was_put_off_does_not_hang_and_is_recalled_when_the_others_do() -> None:
    me = long_wait()
    for _ in range(8):
        me.wait(STALL / 4)
        for name, grant in list(me.gets):
            me.transfer.progressed(name, grant, 1, me.now)
    assert not me.transfer.sources["p4"].stalled
    assert "p4 want 3" in me.told(), "the three trickle: that is not enough"


def test_who_has_nothing_for_us_is_not_put_off_but_declined() -> None:
    me = Fetching("""
        me     ##......
        p1     ########
        p2     ####....
        p3     ....####
        p4     ##......
    """)
    for name in ["p1", "p2", "p3"]:
        me.grant(name)
    assert me.grant("p4", needed=False) == "decline"


def test_a_source_that_was_silent_is_put_off_all_the_same() -> None:
    me = long_wait()
    source = me.transfer.sources["p4"]
    source.put_off, source.stalled, source.idle = False, True, True
    assert me.grant("p4", needed=False) == "later"
    assert not source.stalled


def test_who_is_recalled_is_not_silent_at_once_nor_told_twice() -> None:
    me = long_wait()
    for _ in range(8):
        me.now += 0.9
        for name, grant in list(me.gets):
            me.transfer.progressed(name, grant, 1, me.now)
    me.sends("p1")
    me.wait(1)
    assert me.told().count("p4 want") == 1
    assert not me.transfer.sources["p4"].stalled


def test_who_cannot_be_used_now_is_recalled_later() -> None:
    me = long_wait()
    me.transfer.set_aside(["p4"], me.now)
    me.sends("p1")
    assert "p4" not in me.told()
    assert me.transfer.sources["p4"].put_off
    me.transfer.set_aside([], me.now)
    me.wait(0.25)
    assert "p4 want 3" in me.told()


def test_who_is_put_off_is_of_use() -> None:
    me = long_wait()
    for _ in range(9):
        me.now += 1
        assert me.grant("p4", needed=False) == "later"
    me.now += 3
    assert "p4" not in me.transfer.useless(me.now)
