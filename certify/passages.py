"""The texts that checks feed to a model: prose in the repository, cut by the seed, tokenised by our own reader.

Law: a check never asks the subject under test which ids to use, except where the tokenizer itself is judged.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from zeitgeist.models.bundle import TokenizerData, open_bundle

__all__ = ["PASSAGE", "cut", "passage_ids", "tokenizer_of"]

PASSAGE = """\
The "for" statement is used to iterate over the elements of a sequence, such as a string, a tuple or a list, or over
another iterable object. The expression list is evaluated once; it should yield an iterable object. An iterator is
created for the result, and the suite is then executed once for each item that the iterator returns, in the order in
which they come. When the items are exhausted, the suite in the "else" clause, if there is one, is executed, and the
loop ends. A "break" statement executed in the first suite ends the loop without executing the suite of the "else"
clause. A "continue" statement skips the rest of the suite and goes on with the next item, or with the "else" clause if
there is no next item.

Function definitions. A function definition defines a user-defined function object. It is an executable statement: its
execution binds the name of the function in the current local namespace to a function object, which is a wrapper around
the code of the function. This object holds a reference to the current global namespace, to be used when the function
is called. The definition does not execute the body of the function; this happens only when the function is called.
When a parameter has the form "name = expression", the function is said to have default values. Default values are
evaluated from left to right when the definition is executed, which means that the expression is evaluated once and
that the same value is used for each call. This matters when the value is a mutable object, such as a list or a
dictionary: if the function changes the object, for example by appending an item to a list, the default value changes.

Objects are the abstraction for data. All data in a program is represented by objects or by relations between objects.
Every object has an identity, a type and a value. The identity of an object never changes once it has been created. The
type of an object determines the operations that the object supports, for example "does it have a length?", and also
defines the possible values for objects of that type. The value of some objects can change. Objects whose value can
change are said to be mutable; objects whose value cannot be changed once they are created are called immutable. An
object of an immutable container type that contains a reference to a mutable object changes when the latter is changed;
the container is still said to be immutable, because the collection of objects that it contains cannot be changed.

   def fibonacci(limit):
       first, second = 0, 1
       while first < limit:
           yield first
           first, second = second, first + second

The "try" statement specifies exception handlers and cleanup code for a group of statements. When no exception occurs in
the "try" clause, no handler is executed. When an exception occurs, a search for a handler is started. This search
looks at the "except" clauses one after another until one is found that matches the exception. If no clause matches,
the search goes on in the surrounding code and on the stack of calls. If the evaluation of an expression in the header
of a clause raises an exception, the original search is cancelled and a search starts for the new exception, as if the
whole "try" statement had raised it. The "finally" clause is executed in any case, on the way out.

Names refer to objects. Names are introduced by operations that bind them. The scope of a name is the block in which it
is defined, and if the definition occurs in a function, the scope extends to the blocks that are contained in it, unless
one of them introduces another binding for the name. When a name is used in a block, it is resolved by using the nearest
enclosing scope. If a name is not found at all, an exception of type "NameError" is raised. The import statement looks
for a module, loads it if that is needed, and defines a name or names for the local scope. Modules are found by their
names, which may be dotted; a package is a module that may contain other modules, and its name comes before theirs.
"""
"""Written for this suite in the manner of a language manual: zg-tiny was trained on such prose."""


@lru_cache(maxsize=16)
def tokenizer_of(model: Path) -> TokenizerData:
    """The model's tokenizer as our own reader has it, not the subject's."""
    return open_bundle(model).tokenizer


@lru_cache(maxsize=16)
def passage_ids(model: Path) -> tuple[int, ...]:
    """The whole passage as ids of the model."""
    return tuple(tokenizer_of(model).encode(PASSAGE))


def cut(model: Path, rng: np.random.Generator, count: int) -> list[int]:
    """count consecutive ids from a place that rng picks; the passage repeats when count is longer than it."""
    ids = passage_ids(model)
    start = int(rng.integers(0, len(ids)))
    return [ids[(start + i) % len(ids)] for i in range(count)]
