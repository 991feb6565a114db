"""Write-behind: operations accepted in memory, journaled in L2, and applied to the rows of L3, each decided once."""
