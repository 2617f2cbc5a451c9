"""Words of which the stand-in's answers are made: so many that no two personas are near-copies."""

JOBS = (
    "a postal clerk", "a glazier", "an optician", "a beekeeper", "a court interpreter", "a tram driver", "a dentist",
    "a crane operator", "a florist", "a librarian", "a roofer", "a chemist", "a school cook", "a tax adviser",
    "a locksmith", "a midwife", "a puppeteer", "a surveyor", "a barber", "a geologist", "a night porter", "a tailor",
)  # fmt: skip
TOWNS = (
    "Bergen", "Cork", "Tampere", "Ghent", "Porto", "Valletta", "Riga", "Halifax", "Nantes", "Cusco", "Galway", "Split",
    "Leeds", "Trieste", "Aarhus", "Graz", "Osaka", "Nairobi", "Quito", "Perth", "Malaga", "Tromso", "Bilbao", "Lviv",
)  # fmt: skip
PETS = (
    "two budgies", "an old greyhound", "a one-eyed cat", "three goldfish", "a lame donkey", "six hens", "a house snake",
    "a deaf spaniel", "a pair of guinea pigs", "a stray terrier", "a cockatiel", "an ageing pony", "a hedgehog",
)  # fmt: skip
DISHES = (
    "mushroom risotto", "lentil soup", "fish pie", "aubergine curry", "potato pancakes", "beef stew", "pumpkin gnocchi",
    "spinach quiche", "fried plantain", "rye porridge", "chickpea salad", "smoked herring", "barley broth", "paella",
)  # fmt: skip
DRINKS = (
    "ginger tea", "black coffee", "buttermilk", "elderflower cordial", "mint lemonade", "oolong", "dark ale",
    "hot chocolate", "sparkling water", "carrot juice", "mate", "chicory coffee", "pear juice",
)  # fmt: skip
SPORTS = (
    "badminton", "fencing", "canoeing", "table tennis", "orienteering", "archery", "judo", "curling", "handball",
    "cross-country skiing", "bouldering", "lawn bowls", "water polo", "long walks with poles",
)  # fmt: skip
PASTIMES = (
    "bookbinding", "birdwatching", "model railways", "choral singing", "crosswords", "bread baking", "whittling",
    "astronomy", "stamp swapping", "salsa evenings", "letter writing", "mushroom picking", "accordion lessons",
    "quilting", "genealogy", "allotment gardening", "street photography", "repairing clocks",
)  # fmt: skip
FAMILIES = (
    "twin daughters of nine", "a son in the navy", "four grown stepchildren", "a newborn boy",
    "a teenage niece upstairs",
    "no children and six godchildren", "an elderly father next door", "a fiance abroad", "a foster child of eleven",
    "a large clan of cousins", "a husband who travels", "a wife who paints",
)  # fmt: skip
HOMES = (
    "a houseboat", "a fourth-floor flat without a lift", "a converted barn", "a terraced cottage", "a shared villa",
    "a caravan by the woods", "a flat over a bakery", "a farmhouse with a leaking roof", "a studio by the station",
)  # fmt: skip
TASTES = (
    "silent films", "sea shanties", "detective novels", "opera broadcasts", "baking contests on television",
    "maritime museums", "flea markets", "science podcasts", "old westerns", "fado records", "comic strips",
    "radio plays", "travel diaries", "ghost stories",
)  # fmt: skip

PROFILE = (
    ("{He} is {age} years old.", "At {age}, {he} feels settled.", "{He} turned {age} last spring."),
    ("{He} works as {job}.", "{He} has been {job} for years.", "By trade {he} is {job}."),
    ("{He} lives in {home} in {town}.", "{His} address is {home} near {town}.", "{town} is where {he} rents {home}."),
    ("{He} has {family}.", "At home there is talk of {family}.", "{His} family means {family}."),
    ("{He} looks after {pet}.", "{pet} keep {him} busy before breakfast.", "{He} would not part with {pet}."),
    ("{He} cooks {dish} for guests.", "Sunday lunch means {dish}.", "{His} grandmother taught {him} {dish}."),
    ("{He} drinks {drink} all day.", "{He} never leaves without {drink}.", "A flask of {drink} stands on {his} desk."),
    ("{He} took up {sport} at school.", "Twice a week {he} goes for {sport}.", "{sport} is {his} only exercise."),
    ("Evenings belong to {pastime}.", "{He} belongs to a club for {pastime}.", "{He} spends savings on {pastime}."),
    ("{He} adores {taste}.", "{He} can talk for hours of {taste}.", "A shelf is full of {taste}."),
)  # fmt: skip

TRAITS = (
    "Speaks slowly and leaves gaps.", "Loves a pun too many.", "Needs praise before criticism.", "Hates small talk.",
    "Thinks aloud and changes course.", "Suspicious of experts.", "Generous with compliments.",
    "Plans everything twice.",
    "Easily hurt by sarcasm.", "Laughs at misfortune.", "Wants numbers rather than feelings.", "Quick to apologise.",
    "Bored without an argument.", "Shy with strangers and loud with friends.", "Longs for company at night.",
    "Insists on good manners.", "Prefers a story to a rule.", "Restless unless outdoors.", "Proud of being frugal.",
    "Worries about being a burden.", "Blunt to the point of rudeness.", "Sentimental about old things.",
    "Never asks for help directly.", "Treats every choice as an adventure.", "Keeps secrets well.", "Boasts a little.",
    "Distrusts enthusiasm.", "Melts at kindness.", "Wants the short answer first.", "Loves long detours.",
    "Jealous of free time.", "Looks for hidden motives.", "Patient with beginners.", "Swings between zeal and gloom.",
    "Finds comfort in routine.", "Competitive over trifles.", "Whimsical in word choice.",
    "Dislikes exclamation marks.",
    "Grateful for the smallest favour.", "Stubborn once decided.", "Teases those held dear.", "Fears silence.",
    "Curious about how machines work.", "Believes in signs and omens.", "Averse to risk with money.",
    "Impulsive late in the evening.", "Holds grudges politely.", "Seeks consensus in a group.",
    "Loves to be surprised.",
    "Cannot bear clutter.", "Speaks in images from the sea.", "Doubts every compliment.", "Forgives at once.",
    "Sets private deadlines.", "Mothers everybody nearby.", "Keeps feelings for the diary.", "Prone to lecture.",
    "Delights in gossip.", "Measures words with care.", "Answers a question with another.",
)  # fmt: skip

OPENINGS = (
    "Quiet morning here", "The rain finally stopped", "I just came in", "Long day behind me", "I slept badly again",
    "The kettle is on", "My phone died on the way", "The neighbours are drilling", "It smells of bread in the hall",
    "I found an old photograph", "The bus never came", "We had visitors until late", "I cleaned out a drawer",
    "The heating is making noises", "I lost a glove today", "A letter arrived at last", "My back is stiff",
)  # fmt: skip
WISHES = (
    "Any idea for tonight?", "What would you do with a free afternoon?", "How do I say no without a row?",
    "What could I bring to a friend's table?", "Is it worth going out at all?", "How would you cheer up a sulky guest?",
    "What should I tackle first?", "Could you think of something easy?", "Where does one even start?",
    "Would you write back at once or wait?", "What helps when the mind will not rest?", "Shall I repair it or let go?",
    "How long should one keep such things?", "What do you make of that?", "Have you a better plan?",
)  # fmt: skip
REACTIONS = (
    "That sounds like a day to take gently.", "Good, then there is time for something better.", "I can picture it.",
    "Nothing wrong with that.", "Ah, one of those days.", "That deserves a small celebration.", "Fair enough.",
    "You have earned a pause.", "I would feel the same.", "What a nice thing to stumble on.", "Understandable.",
)  # fmt: skip
ADVICE = (
    "Start with whatever takes ten minutes and stop there.", "Put it off until tomorrow and enjoy the evening.",
    "Ask somebody along and make it an outing.", "Write down three options and cross out two.",
    "Cook something slow and let the rest wait.", "Call the person you keep thinking of.",
    "Try it once, badly, and see how it feels.", "Keep the best piece and give the others away.",
    "Go out for a short walk before you decide.", "Say plainly what you want and leave it at that.",
    "Set a timer, put on music and begin.", "Turn it into a present for a friend.",
)  # fmt: skip
RETURNS = (
    "What draws you most?", "Shall we plan it together?", "Would that suit you?", "How did it begin?",
    "Who would be glad to join?", "Which part worries you?", "When would be a good moment?", "What is in the way?",
)  # fmt: skip
REASONS = (
    "It answers the message and fits the tone.", "It could have been written to anybody.", "It ignores what was told.",
    "It takes up a detail of this life.", "It is warm where warmth is wanted.", "It is too brisk for this character.",
)  # fmt: skip
