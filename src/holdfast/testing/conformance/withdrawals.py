"""What it means to withdraw an entry from L2 (rule C5)."""

from __future__ import annotations

from holdfast.errors import CorruptDocument
from holdfast.protocols import Cached, Coherence, Failed, Withdrawal
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, L2, OTHER, L2Suite, row


class WithdrawalSuite(L2Suite):
    """The checks."""

    async def check_a_withdrawn_entry_leaves_a_fence(self) -> None:
        """It is a miss at once, and a read of the same past that is still under way cannot bring it back."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.fill(l2, row(5))
        assert await self.withdraw(l2, 5, fence=6) == 1
        assert await self.version(l2) == 0
        assert await self.fill(l2, row(5), began) == 0
        assert await self.fill(l2, row(6)) == 1
        assert await self.version(l2) == 6

    async def check_a_damaged_entry_can_be_filled_again(self) -> None:
        """C5: under a fence of its own version the right body takes the place of the wrong one."""
        l2 = await self.prepared()
        await self.fill(l2, row(5, b'{"name":"y"}'))
        assert await self.withdraw(l2, 5, fence=5) == 1
        assert await self.fill(l2, row(5)) == 1
        answer = await self.read(l2)
        assert isinstance(answer, Cached)
        assert answer.row == row(5)

    async def check_only_the_version_named_is_withdrawn(self) -> None:
        """A newer value that came meanwhile stays, above 2^53 too, and so does a key that holds nothing."""
        l2 = await self.prepared()
        assert await self.withdraw(l2, 0, fence=1) == 0
        await self.fill(l2, row(2**62 + 1))
        assert await self.withdraw(l2, 2**62, fence=2**62 + 2) == 0
        assert await self.version(l2) == 2**62 + 1

    async def check_a_fence_is_not_withdrawn(self) -> None:
        """A fence of that version is no entry: it stands as it was."""
        l2 = await self.prepared()
        await self.fence(l2, {KEY: 9})
        assert await self.withdraw(l2, 9, fence=1) == 0
        assert await self.fill(l2, row(8)) == 0

    async def check_an_entry_of_another_incarnation_is_not_withdrawn(self) -> None:
        """Versions of another L3 mean something else."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        assert await self.withdraw(l2, 5, fence=6, coherence=OTHER) == 0
        assert await self.version(l2) == 5

    async def check_an_unreadable_entry_is_withdrawn(self) -> None:
        """C5: it is no answer, and would refuse every fill; withdrawn, the same version can be filled again."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.fill(l2, row(5))
        damaged = await self.harness.damage()
        answer = await self.read(l2)
        assert isinstance(answer, Failed)
        assert (type(answer.error), answer.evidence) == (CorruptDocument, damaged)
        assert answer.absent is not None
        assert await self.fill(l2, row(5), answer.absent) == 0
        assert await self.withdraw_unreadable(l2, damaged, fence=5) == 1
        assert await self.fill(l2, row(4), began) == 0
        assert await self.fill(l2, row(5), answer.absent) == 1
        assert await self.version(l2) == 5

    async def check_what_was_filled_meanwhile_is_not_withdrawn(self) -> None:
        """Other bytes stay, if only one is another, or one is missing; so does a key that holds nothing."""
        l2 = await self.prepared()
        assert await self.withdraw_unreadable(l2, b"damaged", fence=5) == 0
        await self.fill(l2, row(5))
        damaged = await self.harness.damage()
        for other in (damaged[:-1], damaged + b"x", damaged[:-1] + b"x", b""):
            assert await self.withdraw_unreadable(l2, other, fence=5) == 0
        assert isinstance(await self.read(l2), Failed)

    async def withdraw_unreadable(self, l2: L2, evidence: bytes, *, fence: int) -> int:
        """Withdraw what the key holds, if it is these bytes."""
        return await l2.cache.withdraw([Withdrawal(KEY, 0, fence, evidence)], COHERENCE)

    async def withdraw(self, l2: L2, version: int, *, fence: int, coherence: Coherence = COHERENCE) -> int:
        """Withdraw the key's entry of a version."""
        return await l2.cache.withdraw([Withdrawal(KEY, version, fence)], coherence)
