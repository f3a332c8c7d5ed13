"""What words name which thing: the same thing has one name as a drawing and another as a line icon."""

from functools import cache

from mmpeft.mini import world

_ICON_OF = """
    plane airplane   bike bicycle   train steam-train   scooter kick-scooter   mail envelope   cherry cherries
    burger hamburger   house home   sofa couch   bath bathtub   speaker loudspeaker   brush paintbrush   scale scales
    bulb light-bulb   lock padlock   soccer soccer-ball   glasses sunglasses   shoe sneaker   sock socks   jacket coat
    tie necktie   mist fog   snow snowfall   notebook notepad   bottle water-bottle   meat steak   plant potted-plant
    phone telephone   tv television
"""
"""Pairs: another word, usually an icon's name, and the thing it names."""


@cache
def names() -> dict[str, str]:
    """Every word that names a thing or an icon, and the one name it goes by."""
    found = {name: name for name in (*world.things(), *world.icons())}
    words = _ICON_OF.split()
    return found | dict(zip(words[::2], words[1::2], strict=True))
